"""ONNX files and the tensors that lie beside them, read without trusting either."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, inliner

from caffe_bridge.convert.caffe_import.onnx_node import tensor_array
from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.errors import CaffeError
from caffe_bridge.message_strings import mend_strings

_MOST_INLINED = 100_000


def read_model(source: Any) -> tuple[onnx.ModelProto, str, str | None]:
    """A model from a path, bytes or ModelProto: the model, its name for errors, and its folder.

    Raises CaffeError for files that cannot be read or are no ONNX model.
    """
    if isinstance(source, onnx.ModelProto):
        return _without_functions(source, "the ONNX model"), "the ONNX model", None
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _without_functions(_parse(bytes(source), "the ONNX model"), "the ONNX model"), "the ONNX model", None
    path = Path(source)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise CaffeError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from error
    return _without_functions(_parse(data, str(path)), str(path)), str(path), str(path.parent)


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    try:
        model = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise CaffeError(f"{name}: this is no ONNX model, or it is cut short") from error
    if not model.HasField("graph"):
        raise CaffeError(f"{name}: this is no ONNX model, or it is cut short")
    mend_strings(model)
    return model


def _without_functions(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with its own functions replaced by what they consist of."""
    if not model.functions:
        return model
    counts: dict[tuple[str, str], int | None] = {}
    functions = {(function.domain, function.name): function for function in model.functions}

    def size(key: tuple[str, str], depth: int) -> int:
        if key not in functions:
            return 1
        if key not in counts:
            counts[key] = None
            total = 0
            for node in functions[key].node:
                total += size((node.domain, node.op_type), depth + 1) if depth < 100 else _MOST_INLINED + 1
            counts[key] = total
        found = counts[key]
        if found is None:
            raise CaffeError(f"{name}: function '{key[1]}' calls itself")
        return found

    if sum(size((node.domain, node.op_type), 0) for node in model.graph.node) > _MOST_INLINED:
        raise CaffeError(f"{name}: its functions make up more than {_MOST_INLINED} nodes")
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # raised by native code as several types
        raise CaffeError(f"{name}: its functions cannot be inlined: {error}") from error


def tensor(proto: onnx.TensorProto, folder: str | None) -> np.ndarray:
    """An initializer's values; those in another file are mapped, not read.

    The file must lie in the model's folder or below. Raises Unsupported otherwise, or where sizes do not fit.
    """
    if proto.data_location != onnx.TensorProto.EXTERNAL:
        return tensor_array(proto)
    if folder is None:
        raise Unsupported(f"tensor '{proto.name}' lies in another file", "give the model's path, not its content")
    entries = {entry.key: entry.value for entry in proto.external_data}
    path = _inside(folder, entries.get("location", ""), proto.name)
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(proto.data_type))
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", 0))
    except (KeyError, TypeError, ValueError) as error:
        raise Unsupported(f"tensor '{proto.name}' is malformed: {error}") from error
    count = math.prod(proto.dims)
    if dtype.hasobject or min([0, *proto.dims]) < 0 or offset < 0:
        raise Unsupported(f"tensor '{proto.name}' is malformed")
    wanted = count * dtype.itemsize
    if (length and length != wanted) or offset + wanted > os.path.getsize(path):
        raise Unsupported(f"tensor '{proto.name}' has {wanted} bytes, which '{path}' does not hold at {offset}")
    if not count:
        return np.zeros(tuple(proto.dims), np.float32)
    array = np.memmap(path, dtype, "r", offset, (count,)).reshape(tuple(proto.dims))
    return array if dtype.kind in "biuf" else array.astype(np.float32)


def _inside(folder: str, location: str, name: str) -> str:
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, location)) if "\0" not in location else root
    if not location or os.path.isabs(location) or os.path.commonpath([root, path]) != root or path == root:
        raise Unsupported(f"tensor '{name}' lies at '{location}', outside the model's folder")
    if not os.path.isfile(path):
        raise Unsupported(f"tensor '{name}' lies in '{location}', which is not there")
    return path
