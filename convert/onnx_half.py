"""ONNX models whose weights are stored in half precision and computed with in single."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from caffe_bridge.convert.model import Model
from caffe_bridge.convert.onnx_files import write_onnx as write_single
from caffe_bridge.weights.files import replacing


def write_onnx(path: str, model: Model, *, half: bool = False, **options: Any) -> None:
    """An ONNX model; see `onnx_files.write_onnx`. With `half`, weights that float16 holds exactly are stored in it."""
    write_single(path, model, **options)
    if half:
        _halve(path)


def _halve(path: str) -> None:
    """Store weights as float16 where that changes no value, with a Cast node behind each."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from caffe_bridge.convert.onnx_export.export import EXTERNAL_ABOVE, external_name

    model = onnx.load(path)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        array = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            small = array.astype(np.float16)
        if array.ndim == 0 or not np.array_equal(small, array):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(small, f"{name}/half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}/cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    beside = os.path.join(os.path.dirname(os.path.realpath(path)), external_name(path))
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > EXTERNAL_ABOVE
    if os.path.exists(beside):
        os.remove(beside)
    with replacing(path) as temporary:
        onnx.save_model(model, temporary, save_as_external_data=large, location=external_name(path))
