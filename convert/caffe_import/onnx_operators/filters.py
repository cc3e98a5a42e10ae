"""Convolutions and matrix products: ONNX operators as those of operators.py."""

from __future__ import annotations

import numpy as np

from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.onnx_node import OnnxNode
from caffe_bridge.convert.caffe_import.onnx_operators.registry import Inputs, converts, optional
from caffe_bridge.convert.caffe_import.problems import Unsupported


def _parameters(inputs: Inputs) -> list[Value]:
    """Constant weights and, where there is one, constant bias."""
    found = [value for value in inputs[1:3] if value is not None]
    for value, what in zip(found, ("a filter", "a bias")):
        value.constant(what)
    return found


@converts("Conv")
def conv(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Convolution of any number of axes."""
    x, parameters = inputs[0], _parameters(inputs)
    kernel = parameters[0].shape[2:]
    stride, dilation = node.ints("strides", [1] * len(kernel)), node.ints("dilations", [1] * len(kernel))
    window = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    begin, end = node.padding(x.shape[2:], window, stride)
    geometry = {"stride": stride, "begin": begin, "end": end, "dilation": dilation}
    return b.add("conv", x, *parameters, **geometry, group=node.get("group", 1))


@converts("ConvTranspose")
def conv_transpose(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Transposed convolution."""
    x, parameters = inputs[0], _parameters(inputs)
    kernel = parameters[0].shape[2:]
    count = len(kernel)
    stride, dilation = node.ints("strides", [1] * count), node.ints("dilations", [1] * count)
    extra = node.ints("output_padding", [0] * count)
    pads = node.ints("pads", [0] * 2 * count)
    if not len(stride) == len(dilation) == len(extra) == count or len(pads) != 2 * count:
        raise Unsupported("has strides, dilations or pads that do not fit its kernel")
    begin, end = pads[:count], pads[count:]
    mode, wanted = node.get("auto_pad", "NOTSET"), node.ints("output_shape", ())[-count:]
    if mode in ("SAME_UPPER", "SAME_LOWER") and not wanted:
        wanted = tuple(size * step for size, step in zip(x.shape[2:], stride))
    if wanted:
        full = [(s - 1) * t + d * (k - 1) + 1 for s, t, d, k in zip(x.shape[2:], stride, dilation, kernel)]
        totals = [size + more - want for size, more, want in zip(full, extra, wanted)]
        extra = tuple(more + max(0, -total) for more, total in zip(extra, totals))
        less = tuple(max(0, total) // 2 for total in totals)
        rest = tuple(max(0, total) - part for total, part in zip(totals, less))
        begin, end = (less, rest) if mode != "SAME_LOWER" else (rest, less)
    geometry = {"stride": stride, "begin": begin, "end": end, "extra": extra, "dilation": dilation}
    return b.add("deconv", x, *parameters, **geometry, group=node.get("group", 1))


@converts("Gemm")
def gemm(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Fully connected layer; the weights must be constant."""
    x, bias = inputs[0], optional(inputs, 2)
    if node.get("transA", 0):
        x = b.transpose(x, (1, 0))
    weight = np.asarray(inputs[1].constant("the weights"), np.float32) * np.float32(node.get("alpha", 1.0))
    weight = weight if node.get("transB", 0) else weight.T
    top = b.dense(x, b.constant(weight, inputs[1].name), None)
    return top if bias is None else b.binary("add", top, _times(b, bias, node.get("beta", 1.0)))


def _times(b: Builder, value: Value, factor: float) -> Value:
    if value.array is not None:
        return b.constant(value.array * np.float32(factor), value.name)
    return b.power(value, 1, factor)


@converts("MatMul")
def matmul(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Matrix product with a constant matrix."""
    return b.matmul(inputs[0], inputs[1])
