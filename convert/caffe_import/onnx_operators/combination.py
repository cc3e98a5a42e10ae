"""Values of several tensors together: ONNX operators as those of operators.py."""

from __future__ import annotations

from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.onnx_node import OnnxNode
from caffe_bridge.convert.caffe_import.onnx_operators.registry import Inputs, constants, converts
from caffe_bridge.convert.caffe_import.problems import Unsupported


@converts("Add", "Sub", "Mul", "Div", "Pow")
def binary(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Arithmetic with broadcasting."""
    return b.binary(node.operator.lower(), inputs[0], inputs[1])


@converts("Sum", "Max", "Min", "Mean")
def variadic(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Sum, maximum, minimum or mean of values."""
    kind = {"Sum": "add", "Mean": "add"}.get(node.operator, node.operator.lower())
    top = inputs[0]
    for value in inputs[1:]:
        if top.array is not None and value.array is not None:
            raise Unsupported("has several constant inputs", "fold them into one")
        top = b.binary(kind, top, value)
    return b.power(top, 1, 1 / len(inputs)) if node.operator == "Mean" else top


@converts("Concat")
def concat(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Values one after another."""
    return b.concat(list(inputs), node["axis"])


@converts("Split")
def split(b: Builder, node: OnnxNode, inputs: Inputs) -> list[Value]:
    """Parts along an axis."""
    x = inputs[0]
    axis = b.axis(node.get("axis", 0), len(x.shape))
    return b.split(x, axis, node.split_sizes(constants(inputs), x.shape[axis]))
