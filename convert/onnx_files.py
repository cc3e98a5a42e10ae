"""Nets written as ONNX models; the export itself is convert/onnx_export."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from caffe_bridge.convert.model import Model
from caffe_bridge.convert.surgery import set_input_shapes
from caffe_bridge.convert.tensor_files import as_tensor
from caffe_bridge.definition import read_net
from caffe_bridge.errors import CaffeError, WeightsError
from caffe_bridge.net import Net

InputShapes = Mapping[str, Sequence[int]]


def write_onnx(
    path: str,
    model: Model,
    *,
    opset: int | None = None,
    input_shapes: InputShapes | None = None,
    dynamic: bool = True,
    target: str | None = None,
) -> None:
    """An ONNX model of the net in TEST. The model needs a definition, whose inputs are Input layers.

    Args:
        path: the file to write.
        model: definition and weights; shared blobs may be left to their owner.
        opset: version of the standard operators; the oldest that is supported if not given.
        input_shapes: shapes of inputs in place of the definition's.
        dynamic: leave batch and image size open where every layer accepts others.
        target: the program that is to run it; see `export_onnx`.
    """
    from caffe_bridge.convert.onnx_export import export_onnx

    given = {"opset": opset, "target": target}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    export_onnx(build_net(model, input_shapes, copy=False), path, dynamic=dynamic, **options)


class _UnfilledNet(Net):
    """A net whose parameters are about to be given, all of them."""

    def fill(self, keep: Iterable[tuple[str, int]] = ()) -> None:
        """Nothing: what is not written takes no memory."""


def build_net(model: Model, input_shapes: InputShapes | None = None, *, copy: bool = True) -> Net:
    """The net of a model for TEST, with its weights, and inputs of other shapes if given.

    Args:
        model: definition and weights.
        input_shapes: shapes of inputs in place of the definition's.
        copy: whether the net has weights of its own. Without, it may be read only: its parameters can be those of a
            file that is mapped into memory.

    Raises:
        CaffeError: no definition, or an input shape for a blob that is no input.
        WeightsError: a layer's weights are missing or have another shape.
    """
    if model.definition is None:
        raise CaffeError(f"{model.path}: holds no definition; give the net's prototxt too (--model)")
    if input_shapes:
        model = set_input_shapes(model, input_shapes)
    net = _UnfilledNet(read_net(model.definition, "TEST"))
    for layer, parameters in net.params.items():
        blobs = model.layers.get(layer, ())
        for i, (parameter, owner) in enumerate(zip(parameters, net.graph.owners[layer])):
            if owner != (layer, i):
                continue
            blob = blobs[i] if i < len(blobs) else None
            if blob is None:
                raise WeightsError(f"{model.path}: no blob {i} for layer '{layer}', of shape {tuple(parameter.shape)}")
            found, wanted = tuple(blob.shape), tuple(parameter.shape)
            if found != wanted:
                raise WeightsError(f"{model.path}: blob {i} of layer '{layer}' is {found}, the net's is {wanted}")
            values = as_tensor(blob)
            if copy or values.dtype != parameter.dtype:
                with torch.no_grad():
                    parameter.copy_(values)
            else:
                parameter.data = values
    return net
