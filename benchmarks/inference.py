"""Time of a forward pass of whole nets, against OpenCV's Caffe importer (4.x), side by side. Prints times and ratios.

python benchmarks/inference.py [--repeat 7] [NET ...]

Nets are folders of prototxt/ with a deploy.prototxt; weights are drawn by the reference recipe and written for OpenCV
to read. The floors are a matrix product and a copy in the same process: no net is faster than its arithmetic.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

import caffe_bridge
from caffe_bridge import recipe
from caffe_bridge.summary import multiply_accumulates

DEFINITIONS = Path(__file__).parent.parent / "prototxt"


def best(run: Callable[[], object], repeat: int) -> float:
    """The shortest of several runs, in seconds."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def floors(repeat: int) -> tuple[float, float]:
    """GFLOP/s of a float32 matrix product and GB/s of a copy, here and now."""
    a = torch.randn(2048, 2048)
    product = best(lambda: a @ a, repeat)
    block = torch.empty(1 << 26)
    copied = best(lambda: block.clone(), repeat)
    return 2 * 2048**3 / product / 1e9, 2 * block.nbytes / copied / 1e9


def compare(name: str, repeat: int, gflops: float) -> None:
    """One net: ours and OpenCV's time, the greatest difference of the outputs, and the part of the floor reached."""
    path = DEFINITIONS / name / "deploy.prototxt"
    net = caffe_bridge.Net(path)
    recipe.fill(net)
    macs = sum(multiply_accumulates(node, net.graph.shapes) for node in net.graph.nodes)
    (blob,) = net.inputs
    data = np.random.RandomState(0).randn(*net.graph.shapes[blob]).astype("f")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        weights = f"{folder}/net.caffemodel"
        net.save(weights)
        other = cv2.dnn.readNetFromCaffe(str(path), weights)
        other.setInput(data)
        theirs = other.forward()
        x = torch.from_numpy(data)
        ours = net(**{blob: x})[net.outputs[0]].numpy()
        error = np.abs(ours.reshape(theirs.shape) - theirs).max() / max(1.0, np.abs(theirs).max())
        our_time = best(lambda: net(**{blob: x}), repeat)
        their_time = best(lambda: other.forward(), repeat)
    reached = 2 * macs / our_time / 1e9 / gflops
    print(
        f"{name:12} batch {data.shape[0]:2}  ours {our_time * 1e3:8.1f} ms  OpenCV {cv2.__version__} "
        f"{their_time * 1e3:8.1f} ms  ratio {their_time / our_time:5.2f}  difference {error:.1e}  "
        f"{100 * reached:3.0f} % of the matrix product's rate"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nets", nargs="*", default=["alexnet", "caffenet", "googlenet"], metavar="NET")
    parser.add_argument("--repeat", type=int, default=7)
    args = parser.parse_args()
    gflops, copying = floors(args.repeat)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads: {gflops:.0f} GFLOP/s, copy {copying:.1f} GB/s"
    )
    for name in args.nets:
        compare(name, args.repeat, gflops)


if __name__ == "__main__":
    main()
