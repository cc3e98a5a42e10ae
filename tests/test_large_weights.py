"""Large weights are converted in little memory: anonymous memory, that is without pages of mapped files.

MEGABYTES is the size of the model (96 unless the environment says otherwise; the acceptance run takes 3,000), and a
third of it is what a conversion may take besides what the process takes at rest.
"""

from __future__ import annotations

import functools
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor

from caffe_bridge import WeightsError
from caffe_bridge.convert.formats import convert, find_reader
from caffe_bridge.weights import wire

MEGABYTES = int(os.environ.get("MEGABYTES", "96"))
ALLOWED = MEGABYTES * 1_000_000 // 3
LAYERS = 24
ROWS = MEGABYTES * 1_000_000 // (LAYERS * 4 * 1024)

STEPS = (".caffemodel .h5", ".h5 .safetensors", ".safetensors .pt", ".h5 .prototxt .onnx")

# The tiny model comes first, so that everything is imported and set up when the measurement begins.
MEASURED = """
import json, sys
from caffe_bridge import Net
from caffe_bridge.convert.formats import convert

def run(folder, name, step):
    paths = [f"{folder}/{name}{suffix}" for suffix in step]
    Net(*paths) if step[-1] == ".caffemodel" else convert(paths[:-1], paths[-1])

folder, *steps = sys.argv[1:]
for name in ("tiny", "large"):
    for step in steps:
        print(name, flush=True)
        sys.stdin.readline()
        run(folder, name, step.split())
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured through /proc")


@functools.cache
def pattern(rows: int) -> np.ndarray:
    """Exact values that differ by place."""
    return (np.arange(rows * 1024, dtype=np.int32) % 1_000_003).astype(np.float32).reshape(rows, 1024)


def weight(layer: int, rows: int) -> np.ndarray:
    """A layer's weight, which differs from the other layers'."""
    return pattern(rows) + np.float32(layer)


def write_caffemodel(path: Path, rows: int) -> None:
    """A .caffemodel of any size: `weights.write_caffemodel` keeps to the 2 GB that Caffe reads."""
    with open(path, "wb") as file:
        for i in range(LAYERS):
            name = f"fc{i}".encode()
            shape = wire.encode_bytes(7, wire.encode_bytes(1, wire.encode_varint(rows) + wire.encode_varint(1024)))
            blob = shape + wire.encode_prefix(5, rows * 4096)
            head = wire.encode_bytes(1, name) + wire.encode_bytes(2, b"InnerProduct")
            head += wire.encode_prefix(7, len(blob) + rows * 4096) + blob
            file.write(wire.encode_prefix(100, len(head) + rows * 4096) + head)
            file.write(weight(i, rows).data)


def prototxt(rows: int) -> str:
    """Inner products of one input, added up."""
    layers = [
        f'layer {{ name: "fc{i}" type: "InnerProduct" bottom: "x" top: "fc{i}" '
        f"inner_product_param {{ num_output: {rows} bias_term: false }} }}"
        for i in range(LAYERS)
    ]
    bottoms = " ".join(f'bottom: "fc{i}"' for i in range(LAYERS))
    return (
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1024 } } }\n'
        + "\n".join(layers)
        + f'\nlayer {{ name: "sum" type: "Eltwise" {bottoms} top: "sum" }}\n'
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the model as .caffemodel and .prototxt, and a tiny one beside each as tiny.*."""
    folder = tmp_path_factory.mktemp("large")
    for name, rows in (("large", ROWS), ("tiny", 2)):
        write_caffemodel(folder / f"{name}.caffemodel", rows)
        (folder / f"{name}.prototxt").write_text(prototxt(rows))
    yield folder
    for path in folder.iterdir():
        path.unlink()


def anonymous(process: int) -> int:
    """Bytes of a process's memory that are no pages of files."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return sum(int(fields.get(key, "0").split()[0]) for key in ("RssAnon", "RssShmem")) * 1024


def measured(folder: Path, *steps: str) -> Iterator[tuple[str, int]]:
    """Run steps with `large.*` in one process of its own, and yield for each the bytes it took besides those at rest.

    A step names suffixes: a net and a .caffemodel to load into it, or files to convert and the one to write.
    """
    command = [sys.executable, "-c", MEASURED, str(folder), *steps]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert process.stdin and process.stdout
    with process.stdin, process.stdout:
        began = b""
        for i in range(2 * len(steps)):
            began = began or process.stdout.readline()
            assert began == (b"tiny\n" if i < len(steps) else b"large\n"), "the process failed"
            rest = most = anonymous(process.pid)
            process.stdin.write(b"go\n")
            process.stdin.flush()
            while not select.select([process.stdout], [], [], 0.002)[0]:
                most = max(most, anonymous(process.pid))
            began = process.stdout.readline()
            if i >= len(steps):
                yield steps[i - len(steps)], most - rest
    assert process.wait() == 0


def check_values(path: Path) -> None:
    """A few rows of every layer of a converted model."""
    layers = find_reader(str(path))(str(path)).layers
    assert {name for name, blobs in layers.items() if blobs} == {f"fc{i}" for i in range(LAYERS)}
    for i in range(LAYERS):
        values = np.asarray(layers[f"fc{i}"][0])
        assert values.shape == (ROWS, 1024)
        some = slice(None, None, max(1, ROWS // 7))
        np.testing.assert_array_equal(values[some], pattern(ROWS)[some] + np.float32(i))


def check_onnx_values(path: Path) -> None:
    """The first weight of a model, whether it lies in the file or beside it."""
    graph = onnx.load(path, load_external_data=False).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    if MEGABYTES > 1100:
        load_external_data_for_tensor(tensors["fc3.0"], str(path.parent))
    np.testing.assert_array_equal(numpy_helper.to_array(tensors["fc3.0"]), weight(3, ROWS))
    assert (path.parent / f"{path.name}.data").exists() == (MEGABYTES > 1100)


def test_memory(models):
    """Loading takes one copy of the weights; a chain of conversions a third of it at each step."""
    for step, taken in measured(models, ".prototxt .caffemodel", *STEPS):
        print(f"{MEGABYTES} MB, {step}: {taken / 1e6:.0f} MB of memory")
        allowed = 1.1 * MEGABYTES * 1_000_000 if step.endswith(".caffemodel") else ALLOWED
        assert taken < allowed, step
        written = models / f"large{step.split()[-1]}"
        if written.suffix != ".onnx":
            check_values(written)
    check_onnx_values(models / "large.onnx")


@pytest.mark.skipif(MEGABYTES < 2200, reason="the limit is 2 GB")
def test_a_caffemodel_beyond_caffes_limit_is_refused(models, tmp_path):
    with pytest.raises(WeightsError, match=r"2 GB Caffe can read .* save them as HDF5"):
        convert([str(models / "large.caffemodel")], str(tmp_path / "b.caffemodel"))
    assert not list(tmp_path.iterdir())
