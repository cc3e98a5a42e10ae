"""Variances, products and sums along axes: torch's operators as those of operators.py."""

from __future__ import annotations

import math
from typing import Any

from caffe_bridge.convert.caffe_import import resampling
from caffe_bridge.convert.caffe_import.aten.registry import converts
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.problems import Unsupported


@converts("var_mean")
def var_mean(
    b: Builder, x: Value, dim: Any = None, unbiased: Any = True, keepdim: bool = False, *, correction: Any = None
) -> list[Value]:
    """Variance and mean over axes."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    correction = float(unbiased) if correction is None else float(correction)
    axes = [dim] if isinstance(dim, int) else dim or list(range(len(x.shape)))
    axes = [b.axis(axis, len(x.shape)) for axis in axes]
    count = math.prod(x.shape[axis] for axis in axes)
    if count <= correction:
        raise Unsupported(f"is the variance of {count} value(s) with a correction of {correction:g}")
    mean = b.reduce("mean", x, axes, True)
    variance = b.reduce("mean", b.power(b.add("sub", x, mean), 2), axes, keepdim)
    mean = mean if keepdim else b.reshape(mean, variance.shape)
    return [b.power(variance, 1, count / (count - correction)), mean]


@converts("var")
def var(b: Builder, *arguments: Any, **keywords: Any) -> Value:
    """Variance over axes."""
    return var_mean(b, *arguments, **keywords)[0]


@converts("std")
def std(b: Builder, *arguments: Any, **keywords: Any) -> Value:
    """Standard deviation over axes."""
    return b.power(var(b, *arguments, **keywords), 0.5)


@converts("std_mean")
def std_mean(b: Builder, *arguments: Any, **keywords: Any) -> list[Value]:
    """Standard deviation and mean over axes."""
    variance, mean = var_mean(b, *arguments, **keywords)
    return [b.power(variance, 0.5), mean]


@converts("prod")
def prod(b: Builder, x: Value, dim: int | None = None, keepdim: bool = False, dtype: Any = None) -> Value:
    """The product over an axis."""
    if dim is None:
        x, dim = b.flatten(x, 0, -1), 0
    return b.product(x, dim, keepdim)


@converts("cumsum")
def cumsum(b: Builder, x: Value, dim: int, dtype: Any = None) -> Value:
    """Sums up to each place of an axis."""
    axis = b.axis(dim, len(x.shape))
    return b.linear(x, {axis: resampling.summed(x.shape[axis])})
