"""Time to open and to load a large .caffemodel, against protobuf's own parser. Prints times and ratios.

python benchmarks/weights.py [--megabytes 500] [--repeat 3]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from caffe_bridge import schema, weights

LAYERS = 16


def write_model(path: Path, megabytes: int) -> dict[str, tuple[int, ...]]:
    """A net of inner products of about this size; returns each weight's shape."""
    rows = max(1, megabytes * 1_000_000 // (LAYERS * 4 * 1024))
    generator = np.random.default_rng(0)
    shapes = {f"fc{i}": (rows, 1024) for i in range(LAYERS)}
    layers = (
        ((name, "InnerProduct", ["x"], ["y"]), [generator.standard_normal(shape, dtype=np.float32)])
        for name, shape in shapes.items()
    )
    weights.write_caffemodel(path, layers, "benchmark")
    return shapes


def best(run: Callable[[], object], repeat: int) -> float:
    """The shortest of several runs, in seconds."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def memory_copy(count: int, repeat: int) -> float:
    """Seconds to copy that many floats from memory to memory."""
    source, target = torch.zeros(count), torch.zeros(count)
    return best(lambda: target.copy_(source), repeat)


def open_mapped(path: Path) -> None:
    with weights.read(path) as source:
        assert len(source.blobs) == LAYERS


def load_mapped(path: Path, params: dict[str, list[torch.Tensor]]) -> None:
    with weights.read(path) as source:
        weights.load_into(params, source)


def open_protobuf(path: Path) -> None:
    assert len(schema.NetParameter.FromString(path.read_bytes()).layer) == LAYERS


def load_protobuf(path: Path, params: dict[str, list[torch.Tensor]]) -> None:
    net = schema.NetParameter.FromString(path.read_bytes())
    for layer in net.layer:
        for tensor, blob in zip(params[layer.name], layer.blobs):
            tensor.copy_(torch.from_numpy(np.array(blob.data, dtype=np.float32)).view(tensor.shape))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.caffemodel"
        shapes = write_model(path, arguments.megabytes)
        params = {name: [torch.zeros(shape)] for name, shape in shapes.items()}
        copy = memory_copy(sum(t.numel() for blobs in params.values() for t in blobs), arguments.repeat)
        print(f"{path.stat().st_size / 1e6:.0f} MB in {LAYERS} layers; copying as much memory takes {copy:.3f} s")
        for what, mapped, parsed in (
            ("open", lambda: open_mapped(path), lambda: open_protobuf(path)),
            ("load", lambda: load_mapped(path, params), lambda: load_protobuf(path, params)),
        ):
            ours = best(mapped, arguments.repeat)
            theirs = best(parsed, 1)
            print(
                f"{what}: mapped {ours:.4f} s, protobuf {theirs:.3f} s, {theirs / ours:.0f} times faster; "
                f"{ours / copy:.3f} of a memory copy"
            )


if __name__ == "__main__":
    main()
