"""Opening and loading a .caffemodel beside protobuf's own parser.

python benchmarks/weights.py [--net prototxt/vgg16/deploy.prototxt] [--repeat 3]

Seconds are of processor time, the least of the repeats (of one run for protobuf). "Open" ends with every array
addressable: a view here, a NumPy copy of each repeated field there. "Load" fills the parameters of a net, which exist.
Memory is the growth of the process's own memory, without pages of mapped files, while a process opens and loads.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import google.protobuf
import numpy as np
import torch

from caffe_bridge import Net, native, schema, weights
from caffe_bridge.weights import native_index, wire

DEEP_LAYERS = 500  # about ResNet-152's convolutions with their BatchNorm and Scale layers
UNPACKED_FLOATS = 20_000_000


def least(run: Callable[[], object], repeat: int) -> float:
    """The least processor time of several runs, in seconds."""
    times = []
    for _ in range(repeat):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def open_mapped(path: Path) -> None:
    with weights.read(path) as source:
        assert all(array is not None for arrays in source.layers.values() for array in arrays)


def open_protobuf(path: Path) -> dict[str, list[np.ndarray]]:
    """Every layer's arrays, by protobuf's parser and NumPy."""
    net = schema.NetParameter.FromString(path.read_bytes())
    return {
        layer.name: [np.array(blob.double_data or blob.data, np.float32) for blob in layer.blobs]
        for layer in net.layer or net.layers
    }


def load_protobuf(path: Path, params: dict[str, list[torch.Tensor]]) -> None:
    with torch.no_grad():
        for layer, arrays in open_protobuf(path).items():
            for tensor, array in zip(params.get(layer, ()), arrays):
                tensor.copy_(torch.from_numpy(array).view(tensor.shape))


def deep_layers() -> Iterator[tuple[Any, list[np.ndarray]]]:
    """Layers with 1,500 small blobs."""
    generator = np.random.default_rng(0)
    for i in range(DEEP_LAYERS):
        blobs = [generator.standard_normal((16, 16, 3, 3), dtype=np.float32)]
        blobs += [generator.standard_normal(16, dtype=np.float32) for _ in range(2)]
        yield (f"res{i}", "Convolution", [f"res{i - 1}"], [f"res{i}"]), blobs


def write_unpacked(path: Path) -> None:
    """A V1 layer of floats that each have a tag, as Caffe wrote them at first."""
    values = np.zeros((UNPACKED_FLOATS, 5), np.uint8)
    values[:, 0] = 5 << 3 | wire.FIXED32
    shape = b"".join(wire.encode_int(number, dim) for number, dim in zip(range(1, 5), (1, 1, 1, UNPACKED_FLOATS)))
    head = wire.encode_bytes(4, b"fc") + wire.encode_prefix(6, len(shape) + values.nbytes) + shape
    with open(path, "wb") as file:
        file.write(wire.encode_prefix(2, len(head) + values.nbytes) + head)
        file.write(values.data)


def compare(what: str, ours: float, theirs: float, other: str = "protobuf") -> None:
    print(f"  {what:5} {ours:8.4f} s, {other} {theirs:7.4f} s: {theirs / ours:6.1f} times faster")


def anonymous_memory() -> int:
    """Bytes of this process's memory that are no pages of files."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) * 1024


def print_memory(net: str, path: Path) -> None:
    """In this process, which has done nothing else: what loading takes, in copies of the weights."""
    Net('layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }')  # imports what a net needs
    before = anonymous_memory()
    loaded = Net(net, path)
    taken, size = anonymous_memory() - before, sum(t.nbytes for blobs in loaded.params.values() for t in blobs)
    print(f"  loaded into a new net: {taken / 1e6:.0f} MB of memory for {size / 1e6:.0f} MB of weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="prototxt/vgg16/deploy.prototxt")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--memory", metavar="CAFFEMODEL", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print_memory(arguments.net, arguments.memory)
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} threads, {datetime.date.today()}")
    print(f"torch {torch.__version__}, protobuf {google.protobuf.__version__}, kernels {native.status()}", flush=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.caffemodel"
        net = Net(arguments.net)
        net.save(path)
        print(f"{arguments.net}: {path.stat().st_size / 1e6:.0f} MB, {len(net.params)} layers with weights")
        compare("open", least(lambda: open_mapped(path), arguments.repeat), least(lambda: open_protobuf(path), 1))
        mapped = least(lambda: net.load(path), arguments.repeat)
        compare("load", mapped, least(lambda: load_protobuf(path, net.params), 1))
        subprocess.run([sys.executable, __file__, "--net", arguments.net, "--memory", path], check=True)
        path.unlink()
        weights.write_caffemodel(path, deep_layers())
        print(f"{DEEP_LAYERS} layers with 1500 blobs: {path.stat().st_size / 1e6:.0f} MB")
        compare_walks(path, arguments.repeat)
        write_unpacked(path)
        print(f"floats that are not packed: {path.stat().st_size / 1e6:.0f} MB")
        compare_walks(path, arguments.repeat)


def compare_walks(path: Path, repeat: int) -> None:
    """The compiled walk, protobuf, and the plain walk that answers where nothing is compiled."""
    compiled = least(lambda: open_mapped(path), 3 * repeat)
    compare("open", compiled, least(lambda: open_protobuf(path), 1))
    with mock.patch.object(native_index, "index", lambda buffer: None):
        compare("open", compiled, least(lambda: open_mapped(path), 3 * repeat), "plain walk")


if __name__ == "__main__":
    main()
