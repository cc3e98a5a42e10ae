"""From a net to an ONNX file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from caffe_bridge.convert.onnx_export import origins
from caffe_bridge.convert.onnx_export.builder import GraphBuilder, with_bodies
from caffe_bridge.convert.onnx_export.registry import ExportedLayer, exporter, type_of
from caffe_bridge.convert.onnx_export.sizes import VARIABLE, Dims, FixedSizeError, Sizes, find_sizes
from caffe_bridge.errors import CaffeError, LayerError
from caffe_bridge.net import Net
from caffe_bridge.weights import wire
from caffe_bridge.weights.files import replacing

MIN_OPSET = 17
EXTERNAL_ABOVE = 1 << 30
"""Weights of more bytes than this go into a file of their own; a protobuf holds at most 2 GiB."""

TARGETS = ("onnxruntime", "opencv5")
"""The programs a model can be written for."""

_MOST_INSIDE = (1 << 31) - (1 << 26)
_ALIGNMENT = 4096
_RAW_DATA = TensorProto.RAW_DATA_FIELD_NUMBER


def export_onnx(
    net: Net,
    path: str | Path,
    *,
    opset: int = MIN_OPSET,
    dynamic: bool = True,
    target: str = TARGETS[0],
    external_above: int = EXTERNAL_ABOVE,
) -> None:
    """Write a net, as it computes in TEST, as an ONNX model of standard operators.

    Inputs and outputs have the names of the net's blobs and are float32. Weights shared by several layers are stored
    once. The states of RNN and LSTM begin as zeros at each run.

    Args:
        net: a net with its weights, built with phase="TEST".
        path: the file to write; replaced in one step.
        opset: version of the standard operators, 17 or more.
        dynamic: leave batch and image size open where every layer accepts others; else they are the net's own.
        target: the program that is to run the model, of TARGETS. "opencv5" is for OpenCV 5's cv2.dnn: operators that
            it lacks are composed of others.
        external_above: bytes of weights from which on they go into NAME.data beside the file.

    Raises:
        LayerError: a layer has no export; names it, its type and what to do.
        CaffeError: an unknown opset or target, a net for training, or a file that cannot be written.
    """
    newest = onnx.defs.onnx_opset_version()
    if not MIN_OPSET <= opset <= newest:
        raise CaffeError(f"opset must be {MIN_OPSET} to {newest}, not {opset}")
    if net.phase != "TEST":
        raise CaffeError("only nets built with phase='TEST' are exported")
    if target not in TARGETS:
        raise CaffeError(f"target must be {' or '.join(TARGETS)}, not '{target}'")
    model, arrays = _build(net, opset, dynamic, target)
    _write(str(path), model, arrays, external_above)


def _build(net: Net, opset: int, dynamic: bool, target: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model without its weights, and these, with as many sizes left open as the layers allow."""
    for vary in (VARIABLE, ("batch", "rois"), ("rois",)) if dynamic else ():
        try:
            return _build_sized(net, GraphBuilder(opset, target), find_sizes(net.graph, vary))
        except FixedSizeError:
            continue
    return _build_sized(net, GraphBuilder(opset, target), find_sizes(net.graph, ()))


def _build_sized(net: Net, builder: GraphBuilder, sizes: Sizes) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    inputs, values, layers = _add_layers(net, builder, sizes)
    outputs = []
    for blob in net.outputs:
        name = values[blob]
        if name in inputs or name in builder.initializers or name in outputs or (name != blob and blob not in inputs):
            name = builder.add("Identity", name)
            if blob not in inputs:
                builder.rename(name, blob)
                name = blob
            builder.declare(name, builder.dims[values[blob]])
        outputs.append(name)
    made = {name for node in builder.nodes for name in node.output}
    inner = [name for name in builder.dims if name in made and name not in outputs]
    graph = helper.make_graph(
        builder.nodes,
        net.name or "net",
        [_info(builder.dims, name) for name in inputs],
        [_info(builder.dims, name) for name in outputs],
        value_info=[_info(builder.dims, name) for name in inner],
    )
    opsets = [helper.make_opsetid("", builder.opset)]
    version = helper.find_min_ir_version_for(opsets)
    model = helper.make_model(graph, producer_name="caffe-bridge", opset_imports=opsets, ir_version=version)
    shapes = {name: net.graph.shapes[name] for name in inputs}
    helper.set_model_props(model, {origins.KEY: origins.write(layers, shapes, builder.initializers)})
    used = {name for node in with_bodies(builder.nodes) for name in node.input}
    return model, {name: array for name, array in builder.initializers.items() if name in used}


def _info(dims: Mapping[str, Dims], name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims[name])


def _add_layers(
    net: Net, builder: GraphBuilder, sizes: Sizes
) -> tuple[list[str], dict[str, str], list[origins.Origin]]:
    """Add every layer; returns the inputs, for each blob the name of its last value, and what became what."""
    nodes = net.graph.nodes
    last = {blob: i for i, node in enumerate(nodes) for blob in node.tops}
    # In-place layers make a blob several times: its last value, or the input, has the blob's name.
    reserved = set(last)
    for blob in reserved:
        builder.unique(blob)
    values: dict[str, str] = {}
    dims: dict[str, Dims] = {}
    layers: list[origins.Origin] = []
    for i, node in enumerate(nodes):
        tops = sizes.tops[i]
        if node.type == "Input":
            names = list(node.tops)
        else:
            builder.begin(node.name)
            bottoms = [values[blob] for blob in node.bottoms]
            shapes = [net.graph.shapes[blob] for blob in node.bottoms]
            layer = ExportedLayer(node.layer, type_of(node), shapes, [dims[blob] for blob in node.bottoms], tops)
            before = len(builder.nodes)
            try:
                names = list(exporter(layer.type)(builder, layer, bottoms))
            except LayerError as error:
                located = node.located(error, shapes)
                raise (FixedSizeError(str(located)) if isinstance(error, FixedSizeError) else located) from error
            fresh = {name for added in builder.nodes[before:] for name in added.output}
            for j, blob in enumerate(node.tops):
                if names[j] in fresh and names[j] not in names[:j]:
                    is_last = last[blob] == i and blob not in net.inputs
                    wanted = blob if is_last else builder.unique(f"{blob}/{node.name}")
                    builder.rename(names[j], wanted)
                    names[j] = wanted
            weights = builder.weight_names(node.layer)
            if weights is not None:
                blobs = [(name, tuple(blob.shape)) for name, blob in zip(weights, node.layer.blobs)]
                layers.append(origins.Origin(node.layer.param, bottoms, names, blobs, builder.nodes[before:]))
        for blob, name, made in zip(node.tops, names, tops):
            values[blob], dims[blob] = name, made
            builder.declare(name, made)
    return list(net.inputs), values, layers


def _write(path: str, model: onnx.ModelProto, arrays: Mapping[str, np.ndarray], external_above: int) -> None:
    if sum(array.nbytes for array in arrays.values()) <= min(external_above, _MOST_INSIDE):
        with replacing(path) as temporary, open(temporary, "wb") as file:
            _write_inside(file, model, arrays)
        return
    location = external_name(path)
    beside = os.path.join(os.path.dirname(os.path.realpath(path)), location)
    with replacing(beside) as temporary, open(temporary, "wb") as file:
        model.graph.initializer.extend(_write_external(file, location, arrays))
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(model.SerializeToString())


def _write_inside(file: Any, model: onnx.ModelProto, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a model and, as the last of its graph, the weights, which are not copied into a message first."""
    graph = model.graph.SerializeToString()
    size = len(graph)
    tensors: list[tuple[bytes, np.ndarray]] = []
    for name, array in arrays.items():
        head = _tensor(name, array).SerializeToString() + wire.encode_prefix(_RAW_DATA, array.nbytes)
        prefix = wire.encode_prefix(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, len(head) + array.nbytes)
        tensors.append((prefix + head, array))
        size += len(prefix) + len(head) + array.nbytes
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    file.write(rest.SerializeToString() + wire.encode_prefix(onnx.ModelProto.GRAPH_FIELD_NUMBER, size) + graph)
    for head, array in tensors:
        file.write(head)
        file.write(_little_endian(array))


def _little_endian(array: np.ndarray) -> memoryview:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view(np.uint8).data


def external_name(path: str) -> str:
    """The file for the weights beside a model: a bare name of letters, digits, `_`, `-` and `.`, ending in .data."""
    name = os.path.basename(os.path.realpath(path))[:200]
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).lstrip(".") + ".data"


def _tensor(name: str, array: np.ndarray, raw: bytes | None = None) -> TensorProto:
    tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
    if raw is not None:
        tensor.raw_data = raw
    return tensor


def _write_external(file: Any, location: str, arrays: Mapping[str, np.ndarray]) -> Sequence[TensorProto]:
    """Write the weights one after the other; small arrays stay in the model, where shape inference needs them."""
    tensors = []
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.nbytes < _ALIGNMENT:
            tensors.append(_tensor(name, array, array.tobytes()))
            continue
        file.write(b"\0" * (-file.tell() % _ALIGNMENT))
        tensor = _tensor(name, array)
        tensor.data_location = TensorProto.EXTERNAL
        for what, value in (("location", location), ("offset", file.tell()), ("length", array.nbytes)):
            tensor.external_data.add(key=what, value=str(value))
        file.write(_little_endian(array))
        tensors.append(tensor)
    return tensors
