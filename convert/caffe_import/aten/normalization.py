"""Normalisation and softmax: torch's operators as those of operators.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from caffe_bridge.convert.caffe_import.aten.registry import converts
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.problems import Unsupported


@converts("batch_norm")
def batch_norm(
    b: Builder,
    x: Value,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Value:
    """With running statistics."""
    if training or mean is None or variance is None:
        raise Unsupported("normalises by the batch's own statistics", "export the module in eval mode")
    ones = b.constant(np.ones(mean.shape, np.float32)) if weight is None else weight
    zeros = b.constant(np.zeros(mean.shape, np.float32)) if bias is None else bias
    return b.batch_norm(x, [ones, zeros, mean, variance], eps)


@converts("_native_batch_norm_legit_no_training")
def native_batch_norm(
    b: Builder, x: Value, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float, eps: float
) -> list[Value | None]:
    """With running statistics."""
    return [batch_norm(b, x, weight, bias, mean, variance, False, momentum, eps), None, None]


@converts("instance_norm")
def instance_norm(
    b: Builder,
    x: Value,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Value:
    """Each channel of each image."""
    if not use_input_stats:
        return batch_norm(b, x, weight, bias, mean, variance, False, momentum, eps)
    return b.group_norm(x, x.shape[1], weight, bias, eps)


@converts("group_norm")
def group_norm(
    b: Builder, x: Value, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Value:
    """Channels in groups."""
    return b.group_norm(x, groups, weight, bias, eps)


@converts("native_group_norm")
def native_group_norm(
    b: Builder, x: Value, weight: Any, bias: Any, n: int, c: int, hw: int, groups: int, eps: float
) -> list[Value | None]:
    """Channels in groups."""
    return [b.group_norm(x, groups, weight, bias, eps), None, None]


@converts("layer_norm")
def layer_norm(
    b: Builder, x: Value, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Value:
    """The last axes."""
    return b.layer_norm(x, len(shape), weight, bias, eps)


@converts("native_layer_norm")
def native_layer_norm(
    b: Builder, x: Value, shape: Sequence[int], weight: Any, bias: Any, eps: float
) -> list[Value | None]:
    """The last axes."""
    return [b.layer_norm(x, len(shape), weight, bias, eps), None, None]


@converts("rms_norm")
def rms_norm(b: Builder, x: Value, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Value:
    """The last axes, by the root of the mean square."""
    ndim = len(x.shape)
    square = b.reduce("mean", b.power(x, 2), range(ndim - len(shape), ndim), True)
    # Without eps torch takes the distance from 1 to the next number.
    root = b.power(square, -0.5, 1, float(np.finfo(np.float32).eps) if eps is None else eps)
    return b.binary("mul", b.add("mul", x, root), weight) if weight is not None else b.add("mul", x, root)


@converts("_fused_rms_norm")
def fused_rms_norm(b: Builder, x: Value, shape: Sequence[int], weight: Any, eps: float | None) -> list[Value | None]:
    """The last axes, by the root of the mean square."""
    return [rms_norm(b, x, shape, weight, eps), None]


@converts("softmax", "_softmax")
def softmax(b: Builder, x: Value, dim: int, *_: Any) -> Value:
    """Along one axis."""
    return b.softmax(x, dim)


@converts("log_softmax", "_log_softmax")
def log_softmax(b: Builder, x: Value, dim: int, *_: Any) -> Value:
    """The logarithm of softmax."""
    return b.softmax(x, dim, logarithm=True)
