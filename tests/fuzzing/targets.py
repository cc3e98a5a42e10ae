"""What is fuzzed: samples of each kind of file, and what a user does with such a file."""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import torch.nn.functional as F

from caffe_bridge import schema, text_format, weights
from caffe_bridge.convert.formats import find_reader
from caffe_bridge.convert.model import Model
from caffe_bridge.convert.tensor_files import write_safetensors
from caffe_bridge.convert.torch_export.parts.arrangement import filter_rows
from caffe_bridge.definition import insert_splits, read_net, read_solver
from caffe_bridge.errors import CaffeError, WeightsError
from caffe_bridge.graph import build_graph
from caffe_bridge.message_strings import mend_strings
from caffe_bridge.weights import caffemodel, wire
from caffe_bridge.weights.files import map_file
from fuzzing.mutations import BINARY, TEXT, Mutation

REFERENCE = Path(__file__).parent.parent / "reference"
FILES = REFERENCE / "files"
_GRAPH = "archive/models/model.json"


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        suffix: of its files' names.
        samples: files in order, small enough to be cut at every byte; the first is the smallest.
        read: does with a file what a user would; raises CaffeError for a bad one.
        mutations: what is done to the samples.
        slowness: how much longer than others a case takes; there are as many times fewer, with as much more time each.
    """

    suffix: str
    samples: Callable[[], Sequence[bytes]]
    read: Callable[[Path], None]
    mutations: Sequence[Mutation] = BINARY
    slowness: int = 1


def _tiny() -> dict[str, list[Any]]:
    generator = np.random.default_rng(0)
    shapes = {"conv1": [(2, 1, 3, 3), (2,)], "bn": [(2,), (2,), (1,)], "ip": [(3, 4), (3,)]}
    return {name: [generator.standard_normal(s, dtype=np.float32) for s in blobs] for name, blobs in shapes.items()}


def _written(write: Callable[[Path], None], suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"sample{suffix}"
        write(path)
        return path.read_bytes()


def _recorded(*names: str) -> list[bytes]:
    return [(FILES / name).read_bytes() for name in names]


# -- weights -------------------------------------------------------------------------------------------------


def _tiny_net() -> Any:
    net = schema.NetParameter(name="tiny")
    for name in _tiny():
        net.layer.add(name=name, type="Convolution", bottom=["x"], top=[name]).convolution_param.num_output = 2
    return net


def caffemodels() -> list[bytes]:
    """Current, V1 and V0 nets; float and double data, packed, unpacked and raw; groups and unknown fields."""
    doubles = {name: [blob.astype(np.float64) for blob in blobs] for name, blobs in _tiny().items()}
    raw = _tiny_net()
    raw.layer[0].blobs.add(raw_data=bytes(8), raw_data_type=schema.FLOAT16).shape.dim.append(4)
    group = wire.encode_tag(9, wire.START_GROUP) + wire.encode_int(1, 5) + wire.encode_tag(9, wire.END_GROUP)
    unknown = wire.encode_int(77, -1) + wire.encode_bytes(100, group + wire.encode_bytes(1, b"ip")) + group
    return [
        _written(lambda path: weights.save_net(path, _tiny_net(), _tiny()), ".caffemodel"),
        _written(lambda path: weights.save_net(path, _tiny_net(), doubles), ".caffemodel"),
        raw.SerializeToString() + unknown,
        *_recorded("plain.caffemodel", "v0.caffemodel", "v1.caffemodel", "v1_unpacked.caffemodel"),
    ]


def read_weights(path: Path) -> None:
    """Open a weights file, take every array and the net in it, and read it as `convert` does.

    The two walks over a .caffemodel and protobuf must agree where they read it.
    """
    with weights.read(path) as source:
        for layer in source.blobs:
            with contextlib.suppress(WeightsError):
                for array in source.layers[layer]:
                    if array is not None:
                        np.isfinite(array).all()
        definition = source.definition()
        if definition is not None:
            text_format.format(definition)
            same_walks(path)
            agrees_with_protobuf(path, source)
    read_model(path)


def same_walks(path: Path) -> None:
    """Assert that the compiled walk, where it answers, found what the plain one finds."""
    buffer = map_file(path)
    if (found := caffemodel._native_walk(buffer)) is None:
        return
    name, *groups = caffemodel._walk(str(path), buffer)
    assert found[0] == name
    for ours, plain in zip(found[1:], groups, strict=True):
        assert [_described(layer) for layer in ours] == [_described(layer) for layer in plain]


def _described(layer: Any) -> Any:
    blobs = [(b.shape, b.legacy, b.problem, None if b.problem else _identity(b.array())) for b in layer.blobs]
    return layer.name, layer.type, blobs, layer.v0 and _described(layer.v0)


def _identity(array: np.ndarray) -> tuple[Any, ...]:
    return array.dtype.str, array.shape, array.tobytes()


def agrees_with_protobuf(path: Path, source: weights.Weights) -> None:
    """Assert that the arrays are those protobuf finds, where it finds the file in order too."""
    try:
        net = schema.NetParameter.FromString(path.read_bytes())
    except Exception:  # protobuf refuses what the walk steps over, such as a broken pooling_param
        return
    layers = net.layer or net.layers
    mend_strings(net)
    if net.layers or len({layer.name for layer in layers}) != len(layers):
        return
    for layer in layers:
        for ours, blob in zip(source.blobs[layer.name], layer.blobs, strict=True):
            if ours is not None and ours.problem is None and not blob.raw_data:
                values = np.array(blob.double_data) if blob.double_data else np.array(blob.data, np.float32)
                np.testing.assert_array_equal(ours.array().reshape(-1), values)


def hdf5_weights() -> list[bytes]:
    """As Caffe lays them out, by this and by newer versions of the format, chunked and packed."""

    def packed(path: Path) -> None:
        with h5py.File(path, "w", libver="latest") as file:
            for name, blobs in _tiny().items():
                for i, blob in enumerate(blobs):
                    options = {"chunks": True, "compression": "gzip", "shuffle": True} if blob.ndim > 1 else {}
                    file.create_dataset(f"data/{name}/part/{i}", data=blob, **options)

    return [
        _written(lambda path: weights.write_hdf5(path, {"ip": _tiny()["ip"]}), ".h5"),
        _written(lambda path: weights.write_hdf5(path, _tiny()), ".h5"),
        _written(packed, ".h5"),
        *_recorded("plain.caffemodel.h5"),
    ]


def solverstates() -> list[bytes]:
    state = weights.SolverState(4, "net.caffemodel", 1, _tiny()["conv1"], b'{"numpy": 1}')
    return [
        _written(lambda path: weights.write_solverstate(path, state), ".solverstate"),
        *_recorded("snap_binaryproto_iter_4.solverstate"),
    ]


def hdf5_solverstates() -> list[bytes]:
    state = weights.SolverState(4, "net.caffemodel", 1, _tiny()["conv1"], b'{"numpy": 1}')
    return [
        _written(lambda path: weights.write_solverstate(path, state), ".solverstate.h5"),
        *_recorded("snap_hdf5_iter_4.solverstate.h5"),
    ]


def read_solverstate(path: Path) -> None:
    for array in weights.read_solverstate(path).history:
        np.isfinite(array).all()


def mean_files() -> list[bytes]:
    modern = np.arange(12.0).reshape(1, 1, 3, 2, 2)
    return [
        _written(lambda path: weights.write_blobproto(path, modern), ".binaryproto"),
        *_recorded("mean.binaryproto"),
    ]


def read_mean(path: Path) -> None:
    np.isfinite(weights.read_blobproto(path)).all()


# -- tensors of other frameworks -----------------------------------------------------------------------------


def safetensors_files() -> list[bytes]:
    return [
        _written(lambda path: write_safetensors(str(path), Model("", {"ip": _tiny()["ip"]})), ".safetensors"),
        _written(lambda path: write_safetensors(str(path), Model("", _tiny(), _tiny_net())), ".safetensors"),
    ]


def state_dicts() -> list[bytes]:
    tensors = {"ip.0": torch.ones(3, 4), "ip.1": torch.ones(3)}
    old, new = io.BytesIO(), io.BytesIO()
    torch.save(tensors, old, _use_new_zipfile_serialization=False)
    torch.save(tensors, new)
    return [old.getvalue(), new.getvalue()]


def onnx_models() -> list[bytes]:
    """Chains of common operators, with weights and other constants, and an exported net."""
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    arrays = {
        "w": generator.standard_normal((4, 3, 3, 3), dtype=np.float32),
        "scale": np.ones(4, np.float32),
        "fc": generator.standard_normal((2, 64), dtype=np.float32),
        "shape": np.array([0, -1], np.int64),
        "sizes": np.array([1, 1, 2, 2], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c", "scale", "scale", "scale", "scale"], ["b"]),
        helper.make_node("Relu", ["b"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["p", "", "sizes"], ["u"], mode="nearest"),
        helper.make_node("Concat", ["r", "u"], ["k"], axis=1),
        helper.make_node("AveragePool", ["k"], ["a"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Slice", ["a", "start", "end", "axes"], ["s"]),
        helper.make_node("Transpose", ["a"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["a", "shape"], ["f"]),
        helper.make_node("Gemm", ["f", "fc"], ["g"], transB=1),
        helper.make_node("Softmax", ["g"], ["y"], axis=1),
    ]
    arrays |= {"start": np.array([0]), "end": np.array([2]), "axes": np.array([1])}
    arrays["fc"] = arrays["fc"][:, :32]
    models = []
    for used in (nodes[:4], nodes):
        outputs = [helper.make_tensor_value_info(used[-1].output[0], TensorProto.FLOAT, None)]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])]
        tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
        graph = helper.make_graph(
            used, "g", inputs, outputs, [t for t in tensors if any(t.name in n.input for n in used)]
        )
        models.append(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    return [model.SerializeToString() for model in models] + [_exported()]


def _exported() -> bytes:
    from caffe_bridge import Net
    from caffe_bridge.convert.onnx_export import export_onnx

    net = Net(FILES / "deploy.prototxt", FILES / "plain.caffemodel")
    return _written(lambda path: export_onnx(net, path), ".onnx")


class Chosen(torch.nn.Module):
    """A filter, and an operator whose result has as many rows as data say."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 3, stride=2)

    def forward(self, x: torch.Tensor, selector: torch.Tensor) -> dict[str, torch.Tensor]:
        note = 'name: "filter" type: "Filter" bottom: "a" bottom: "b" top: "c"'
        (rows,) = filter_rows([self.conv(x).relu()], selector, layer=note)
        return {"y": F.max_pool2d(rows, 2).flatten(1) * 2}


def programs() -> list[bytes]:
    """Exported programs."""
    plain = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Sigmoid())
    found = []
    for module, inputs in ((plain, (torch.zeros(2, 3),)), (Chosen(), (torch.zeros(2, 2, 8, 9), torch.ones(2)))):
        program = torch.export.export(module.eval(), inputs)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
        file = io.BytesIO()
        torch.export.save(program, file)
        found.append(file.getvalue())
    return found


def program_graphs() -> list[bytes]:
    """The graphs of exported programs, which mutations of the whole file do not reach: archives have checksums."""
    return [records[_GRAPH] for records in _program_records()]


@functools.cache
def _program_records() -> list[dict[str, bytes]]:
    found = []
    for program in programs():
        with zipfile.ZipFile(io.BytesIO(program)) as archive:
            found.append({name: archive.read(name) for name in archive.namelist()})
    return found


def read_program_graph(path: Path) -> None:
    """Read a graph in an archive with the weights of the program whose length it has most nearly."""
    graph = path.read_bytes()
    records = min(_program_records(), key=lambda records: abs(len(records[_GRAPH]) - len(graph)))
    archive_path = path.with_suffix(".pt2")
    with zipfile.ZipFile(archive_path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, graph if name == _GRAPH else content)
    read_model(archive_path)


def read_model(path: Path) -> None:
    """Read a file as `convert` does."""
    for blobs in find_reader(str(path))(str(path)).completed().values():
        for blob in blobs:
            np.isfinite(np.asarray(blob)).all()


# -- definitions ---------------------------------------------------------------------------------------------


def prototxts() -> list[bytes]:
    """Nets of all three generations, and one of every layer type."""
    cases = sorted((REFERENCE / "layers").glob("*_0.npz")) + sorted((REFERENCE / "forks").glob("*_0.npz"))
    return [
        *_recorded("deploy.prototxt", "v0.prototxt", "v1.prototxt"),
        *(str(np.load(path)["prototxt"]).encode() for path in cases),
    ]


def read_prototxt(path: Path) -> None:
    """Read a net for both phases, write and reread it, and wire its layers. Raises CaffeError if both phases do."""
    errors = [error for phase in ("TRAIN", "TEST") if (error := _read_phase(path, phase))]
    if len(errors) == 2:
        raise errors[0]


def _read_phase(path: Path, phase: str) -> CaffeError | None:
    try:
        definition = insert_splits(read_net(path, phase))
        again = schema.NetParameter()
        text_format.parse(text_format.format(definition.param), again)
        assert again.SerializeToString(deterministic=True) == definition.param.SerializeToString(deterministic=True)
        build_graph(definition, phase)
    except CaffeError as error:
        return error
    return None


def solver_prototxts() -> list[bytes]:
    return _recorded("solver_binaryproto.prototxt", "solver_hdf5.prototxt")


def read_solver_prototxt(path: Path) -> None:
    param, _ = read_solver(path)
    text_format.format(param)


TARGETS: dict[str, Target] = {
    "caffemodel": Target(".caffemodel", caffemodels, read_weights),
    "h5": Target(".caffemodel.h5", hdf5_weights, read_weights),
    "solverstate": Target(".solverstate", solverstates, read_solverstate),
    "solverstate_h5": Target(".solverstate.h5", hdf5_solverstates, read_solverstate),
    "binaryproto": Target(".binaryproto", mean_files, read_mean),
    "safetensors": Target(".safetensors", safetensors_files, read_model),
    "state_dict": Target(".pt", state_dicts, read_model),
    "onnx": Target(".onnx", onnx_models, read_model),
    "pt2": Target(".pt2", programs, read_model, slowness=5),
    "pt2_graph": Target(".json", program_graphs, read_program_graph, TEXT, slowness=5),
    "prototxt": Target(".prototxt", prototxts, read_prototxt, TEXT),
    "solver": Target(".prototxt", solver_prototxts, read_solver_prototxt, TEXT),
}
