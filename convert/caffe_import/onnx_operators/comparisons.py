"""Comparisons and choices: ONNX operators as those of operators.py."""

from __future__ import annotations

from caffe_bridge.convert.caffe_import import comparisons
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.onnx_node import OnnxNode
from caffe_bridge.convert.caffe_import.onnx_operators.registry import Inputs, converts


@converts("Greater", "Less")
def above(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """1 where one value is above the other, else 0."""
    x, y = inputs[:2] if node.operator == "Greater" else inputs[1::-1]
    return comparisons.above(b, x, y)


@converts("GreaterOrEqual", "LessOrEqual")
def at_least(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """1 where one value is no less than the other, else 0."""
    x, y = inputs[:2] if node.operator == "GreaterOrEqual" else inputs[1::-1]
    return comparisons.at_least(b, x, y)


@converts("Equal")
def equal(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """1 where two values are equal, else 0."""
    return comparisons.equal(b, inputs[0], inputs[1])


@converts("Not")
def inverse(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """1 where a comparison does not hold."""
    return comparisons.inverse(b, inputs[0])


@converts("And")
def both(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """1 where both comparisons hold."""
    return b.binary("mul", inputs[0], inputs[1])


@converts("Or")
def either(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """1 where one of two comparisons holds."""
    return b.binary("max", inputs[0], inputs[1])


@converts("Where")
def where(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """One value where a comparison holds, another elsewhere."""
    return comparisons.chosen(b, *inputs[:3])


@converts("Sign")
def sign(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """-1, 0 or 1."""
    return b.add("sign", inputs[0])


@converts("ThresholdedRelu")
def thresholded_relu(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Values above a limit; 0 for others."""
    return b.add("mul", inputs[0], b.add("threshold", inputs[0], threshold=float(node.get("alpha", 1.0))))


@converts("Shrink")
def shrink(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Values beyond a limit on either side, moved towards 0 by the bias; 0 for others."""
    x, limit, bias = inputs[0], float(node.get("lambd", 0.5)), float(node.get("bias", 0.0))
    sides = [b.add("threshold", b.power(x, 1, sign), threshold=limit) for sign in (1.0, -1.0)]
    upper, lower = (b.add("mul", side, b.power(x, 1, 1, shift)) for side, shift in zip(sides, (-bias, bias)))
    return b.add("add", upper, lower)
