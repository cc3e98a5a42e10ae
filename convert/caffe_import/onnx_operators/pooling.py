"""Pooling and reductions: ONNX operators as those of operators.py."""

from __future__ import annotations

from typing import Any

from caffe_bridge.convert.caffe_import import resampling
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.onnx_node import OnnxNode
from caffe_bridge.convert.caffe_import.onnx_operators.registry import Inputs, constants, converts
from caffe_bridge.convert.caffe_import.problems import Unsupported


def _windows(node: OnnxNode, x: Value) -> tuple[Any, Any, Any, Any, Any]:
    kernel = node.ints("kernel_shape", ())
    stride, dilation = node.ints("strides", [1] * len(kernel)), node.ints("dilations", [1] * len(kernel))
    window = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    begin, end = node.padding(x.shape[2:], window, stride)
    return kernel, stride, begin, end, dilation


@converts("MaxPool")
def max_pool(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Maximum pooling, without positions."""
    kernel, stride, begin, end, dilation = _windows(node, inputs[0])
    return b.max_pool(inputs[0], kernel, stride, begin, end, bool(node.get("ceil_mode", 0)), dilation)


@converts("AveragePool")
def average_pool(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Average pooling."""
    kernel, stride, begin, end, dilation = _windows(node, inputs[0])
    if any(d != 1 for d in dilation):
        raise Unsupported("pools with dilation")
    ceil, padded = bool(node.get("ceil_mode", 0)), bool(node.get("count_include_pad", 0))
    return b.average_pool(inputs[0], kernel, stride, begin, end, ceil, padded)


@converts("GlobalAveragePool", "GlobalMaxPool")
def global_pool(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Pooling of whole images."""
    kind = "mean" if node.operator == "GlobalAveragePool" else "max"
    return b.reduce(kind, inputs[0], range(2, len(inputs[0].shape)), True)


@converts("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare")
@converts("ReduceLogSum", "ReduceLogSumExp")
def reduce(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Reduction over axes."""
    kind = node.operator.removeprefix("Reduce").lower().replace("sumsquare", "sumsq")
    axes = node.axes_of(constants(inputs))
    if axes is None and node.get("noop_with_empty_axes", 0):
        return inputs[0]
    top = b.reduce(
        kind.replace("logsum", "sum") if kind == "logsum" else kind, inputs[0], axes, bool(node.get("keepdims", 1))
    )
    return b.add("log", top) if kind == "logsum" else top


@converts("ReduceProd")
def product(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """The product over axes."""
    top, keep = inputs[0], bool(node.get("keepdims", 1))
    axes = node.axes_of(constants(inputs))
    if axes is None and node.get("noop_with_empty_axes", 0):
        return top
    found = range(len(top.shape)) if axes is None else axes
    for axis in sorted((b.axis(axis, len(top.shape)) for axis in found), reverse=True):
        top = b.product(top, axis, keep)
    return top


@converts("CumSum")
def cumulative_sum(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Sums up to each place of an axis."""
    x = inputs[0]
    axis = b.axis(int(inputs[1].constant("the axis").reshape(-1)[0]), len(x.shape))
    matrix = resampling.summed(x.shape[axis], bool(node.get("exclusive", 0)), bool(node.get("reverse", 0)))
    return b.linear(x, {axis: matrix})


@converts("ArgMax")
def argmax(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Position of the maximum."""
    x, axis = inputs[0], b.axis(node.get("axis", 0), len(inputs[0].shape))
    top = b.add("argmax", x, axis=axis)
    return top if node.get("keepdims", 1) else b.squeeze(top, [axis])
