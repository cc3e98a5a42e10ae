"""Other shapes, and parts of a tensor: ONNX operators as those of operators.py."""

from __future__ import annotations

import math

from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.onnx_constants import shape_of
from caffe_bridge.convert.caffe_import.onnx_node import OnnxNode
from caffe_bridge.convert.caffe_import.onnx_operators.registry import Inputs, constants, converts
from caffe_bridge.convert.caffe_import.problems import Unsupported


@converts("Shape", "Size")
def shape(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """A constant, since shapes are fixed."""
    return b.constant(shape_of(node, inputs[0].shape))


@converts("Reshape")
def reshape(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Another shape."""
    dims = node.ints_of(constants(inputs), 1, "shape")
    return b.reshape_like(inputs[0], dims, not node.get("allowzero", 0))


@converts("Flatten")
def flatten(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Two axes."""
    x, axis = inputs[0], node.get("axis", 1)
    axis = axis if axis == len(x.shape) else b.axis(axis, len(x.shape))
    return b.reshape(x, [math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


@converts("Squeeze")
def squeeze(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Fewer axes."""
    return b.squeeze(inputs[0], node.axes_of(constants(inputs)))


@converts("Unsqueeze")
def unsqueeze(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """More axes."""
    return b.unsqueeze(inputs[0], node.ints_of(constants(inputs), 1, "axes"))


@converts("Transpose")
def transpose(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Axes in another order."""
    return b.transpose(inputs[0], node.ints("perm", range(len(inputs[0].shape))[::-1]))


@converts("Expand")
def expand(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Broadcasting."""
    return b.expand(inputs[0], node.ints_of(constants(inputs), 1, "shape"))


@converts("Tile")
def tile(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Repetition."""
    return b.add("tile", inputs[0], repeats=tuple(node.ints_of(constants(inputs), 1, "repeats")))


@converts("Slice")
def slice_(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Parts of axes."""
    top = inputs[0]
    for axis, start, stop, step in node.slices(constants(inputs), inputs[0].shape):
        top = b.slice(top, axis, start, stop, step)
    return top


@converts("Gather")
def gather(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Constant positions of a value, or rows of a constant table."""
    data, index = inputs[:2]
    if index.array is not None:
        return b.take(data, node.get("axis", 0), index.array)
    if data.array is None or len(data.shape) != 2 or node.get("axis", 0) != 0:
        raise Unsupported("gathers at positions that are computed", "only rows of a constant table can be")
    return b.add("embed", index, data)
