"""Convolutions, linear layers and embeddings: torch's operators as those of operators.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from caffe_bridge.convert.caffe_import.aten.registry import converts, several
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.problems import Unsupported


@converts("conv1d", "conv2d", "conv3d")
def conv(
    b: Builder,
    x: Value,
    weight: Value,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """Convolution."""
    count = len(weight.shape) - 2
    dilation = several(dilation, count)
    if isinstance(padding, str):
        totals = [d * (k - 1) if padding == "same" else 0 for k, d in zip(weight.shape[2:], dilation)]
        begin, end = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
    else:
        begin = end = several(padding, count)
    geometry = {"stride": several(stride, count), "begin": begin, "end": end, "dilation": dilation}
    return b.add("conv", x, *_parameters(weight, bias), **geometry, group=groups)


def _parameters(weight: Value, bias: Value | None) -> list[Value]:
    weight.constant("a filter")
    if bias is not None:
        bias.constant("a bias")
    return [weight] if bias is None else [weight, bias]


@converts("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(
    b: Builder,
    x: Value,
    weight: Value,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Value:
    """Transposed convolution."""
    count = len(weight.shape) - 2
    pad = several(padding, count)
    geometry = {"stride": several(stride, count), "begin": pad, "end": pad, "dilation": several(dilation, count)}
    parameters = _parameters(weight, bias)
    return b.add("deconv", x, *parameters, **geometry, extra=several(output_padding, count), group=groups)


@converts("convolution")
def convolution(
    b: Builder,
    x: Value,
    weight: Value,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Value:
    """Convolution or transposed convolution."""
    if transposed:
        return conv_transpose(b, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv(b, x, weight, bias, stride, padding, dilation, groups)


@converts("linear")
def linear(b: Builder, x: Value, weight: Value, bias: Any = None) -> Value:
    """Fully connected layer over the last axis."""
    return b.dense(x, *_parameters(weight, bias)) if bias is not None else b.dense(x, weight, None)


@converts("addmm")
def addmm(b: Builder, bias: Value, x: Value, weight: Value, beta: float = 1, alpha: float = 1) -> Value:
    """Matrix product plus a term."""
    top = b.power(b.matmul(x, weight), 1, alpha)
    return b.binary("add", top, b.constant(bias.constant("the bias") * np.float32(beta)))


@converts("mm", "matmul", "bmm")
def matmul(b: Builder, x: Value, weight: Value) -> Value:
    """Matrix product with a constant matrix."""
    return b.matmul(x, weight)


@converts("embedding")
def embedding(b: Builder, table: Value, index: Value, *_: Any) -> Value:
    """Rows of a table."""
    return b.add("embed", index, table)


@converts("scaled_dot_product_attention", "_native_multi_head_attention")
def attention(b: Builder, *_: Any, **__: Any) -> Value:
    """Refused."""
    raise Unsupported("is attention", "Caffe has no product of two computed matrices")
