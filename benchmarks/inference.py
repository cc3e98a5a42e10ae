"""Time of a forward pass of whole nets: layer by layer, by plan, and by OpenCV's Caffe importer (4.x), side by side.

    python benchmarks/inference.py [NET ...] [--threads 1] [--batch 1 10] [--repeat 7]

Nets are folders of prototxt/ with a deploy.prototxt; weights are drawn by the reference recipe and written for OpenCV
to read. mnc5 is MNC's test net on an image of 600 x 1000, which OpenCV cannot read. The rates of a matrix product and
a copy in the same process tell what the machine gives: no net is faster than its arithmetic, unless by an algorithm
that needs less of it (OpenCV's Winograd convolutions). With one thread the times are of the processor, so that other
programs disturb them less, else of the clock; each is the least of the repeats, which go round the programs.
"""

from __future__ import annotations

import argparse
import datetime
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from ops import cpu_model

import caffe_bridge
from caffe_bridge import recipe
from caffe_bridge.summary import multiply_accumulates

DEFINITIONS = Path(__file__).parent.parent / "prototxt"
NETS = ["alexnet", "caffenet", "googlenet", "squeezenet", "mobilenet", "mobilenet_v2", "resnet50", "vgg16", "mnc5"]


def seconds(runs: Sequence[Callable[[], object]], repeat: int) -> list[float]:
    """The shortest of several runs of each."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times = [float("inf")] * len(runs)
    for _ in range(repeat):
        for i, run in enumerate(runs):
            start = clock()
            run()
            times[i] = min(times[i], clock() - start)
    return times


def floors(repeat: int) -> tuple[float, float]:
    """GFLOP/s of a float32 matrix product and GB/s of a copy, here and now."""
    a, block = torch.randn(2048, 2048), torch.empty(1 << 26)
    target = torch.empty_like(block)
    product, copied = seconds([lambda: a @ a, lambda: target.copy_(block)], repeat)
    return 2 * 2048**3 / product / 1e9, 2 * block.nbytes / copied / 1e9


def forward(net: caffe_bridge.Net, inputs: dict[str, torch.Tensor], optimize: bool) -> Callable[[], object]:
    """A pass by plan or layer by layer."""

    def run() -> object:
        net.optimize = optimize
        return net(**inputs)

    return run


def fill(net: caffe_bridge.Net) -> None:
    """The recipe's weights, which has nothing for BatchNorm and Scale: statistics and factors that keep magnitudes."""
    recipe.fill(net)
    constants = {"BatchNorm": (0.1, 1.1, 1.0), "Scale": (0.9, 0.1)}
    for node in net.graph.nodes:
        for blob, value in zip(node.layer.blobs, constants.get(node.type, ())):
            blob.detach().fill_(value)


def greatest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Over the greatest value of `b`."""
    return float(np.abs(a.reshape(b.shape) - b).max() / np.abs(b).max())


def compare(name: str, batch: int, repeat: int, gflops: float) -> str:
    """One net: the times, OpenCV's over ours, the differences before a Softmax, and the part of the floor reached."""
    path = DEFINITIONS / name / "deploy.prototxt"
    net = caffe_bridge.Net(path)
    fill(net)
    (blob,) = net.inputs
    shape = net.graph.shapes[blob]
    macs = sum(multiply_accumulates(node, net.graph.shapes) for node in net.graph.nodes) * batch / shape[0]
    data = np.random.RandomState(0).randn(batch, *shape[1:]).astype("f")
    inputs = {blob: torch.from_numpy(data)}
    layers, plan = (forward(net, inputs, optimize) for optimize in (False, True))
    looked_at = next((node.bottoms[0] for node in net.graph.nodes if node.type == "Softmax"), net.outputs[0])
    last = [node.name for node in net.graph.nodes if looked_at in node.tops][-1]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        weights = f"{folder}/net.caffemodel"
        net.save(weights)
        other = cv2.dnn.readNetFromCaffe(str(path), weights)
        other.setInput(data)
        theirs = other.forward(last)
        net.optimize = False
        exact = net(**inputs, blobs=[looked_at])[looked_at].numpy()
        net.optimize = True
        planned = net(**inputs, blobs=[looked_at])[looked_at].numpy()
        plan(), other.forward()
        by_layer, by_plan, by_opencv = seconds([layers, plan, other.forward], repeat)
    return (
        f"{name:12} {batch:5}  {by_layer * 1e3:8.1f} {by_plan * 1e3:8.1f} {by_opencv * 1e3:8.1f}"
        f"  {by_layer / by_plan:6.2f} {by_opencv / by_plan:6.2f}"
        f"  {greatest_difference(planned, exact):9.1e} {greatest_difference(planned, theirs):9.1e}"
        f"  {100 * 2 * macs / by_plan / 1e9 / gflops:5.0f} %"
    )


def mnc(repeat: int) -> str:
    """MNC-5's test net, 300 RoIs."""
    net = caffe_bridge.Net(DEFINITIONS / "mnc5" / "test.prototxt")
    fill(net)
    inputs = recipe.inputs(600, 1000)
    with torch.no_grad():
        runs = [forward(net, inputs, optimize) for optimize in (False, True)]
        runs[1]()
        by_layer, by_plan = seconds(runs, min(repeat, 2))
    return f"{'mnc5':12} {1:5}  {by_layer * 1e3:8.1f} {by_plan * 1e3:8.1f} {'':8}  {by_layer / by_plan:6.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nets", nargs="*", default=NETS, metavar="NET")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--repeat", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    gflops, copying = floors(args.repeat)
    print(f"{cpu_model()}, {args.threads} thread(s), {datetime.date.today()}; 1-minute load {os.getloadavg()[0]:.1f}")
    print(f"torch {torch.__version__}, OpenCV {cv2.__version__}; {gflops:.0f} GFLOP/s, copy {copying:.1f} GB/s")
    print("milliseconds of", "the processor" if args.threads == 1 else "the clock")
    print()
    print("                       layer by                      plan is faster     plan differs from      of the")
    print("net          batch     layer     plan   OpenCV  than layers, OpenCV  layers    OpenCV   product's rate")
    for name in args.nets:
        for batch in args.batch if name != "mnc5" else [1]:
            print(mnc(args.repeat) if name == "mnc5" else compare(name, batch, args.repeat, gflops), flush=True)


if __name__ == "__main__":
    main()
