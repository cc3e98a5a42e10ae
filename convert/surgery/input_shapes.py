"""Other shapes for a net's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caffe_bridge.convert.model import Model
from caffe_bridge.convert.surgery.editing import copy_of
from caffe_bridge.errors import CaffeError


def set_input_shapes(model: Model, shapes: Mapping[str, Sequence[int]]) -> Model:
    """The model with inputs of these shapes, by blob. Raises CaffeError for a blob that is no input."""
    model = copy_of(model)
    left = dict(shapes)
    inputs = []
    for layer in model.definition.layer:
        if layer.type != "Input":
            continue
        inputs += layer.top
        present = [list(shape.dim) for shape in layer.input_param.shape] or [[]]
        present = present * len(layer.top) if len(present) == 1 else present
        changed = [left.pop(top, shape) for top, shape in zip(layer.top, present)]
        del layer.input_param.shape[:]
        for shape in changed:
            layer.input_param.shape.add(dim=shape)
    if left:
        known = ", ".join(inputs) or "none"
        raise CaffeError(f"input shape for '{next(iter(left))}', which is no input; the net's inputs are {known}")
    return model
