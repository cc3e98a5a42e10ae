"""Pooling and reductions: torch's operators as those of operators.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from caffe_bridge.convert.caffe_import.aten.registry import CONVERTERS, Converter, converts, several
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.problems import Unsupported


@converts("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(
    b: Builder,
    x: Value,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Value:
    """Maximum pooling."""
    kernel, steps, pad = _windows(x, kernel_size, stride, padding)
    return b.max_pool(x, kernel, steps, pad, pad, ceil_mode, several(dilation, len(kernel)))


def _windows(x: Value, kernel_size: Any, stride: Any, padding: Any) -> tuple[Any, Any, Any]:
    count = len(x.shape) - 2
    kernel = several(kernel_size, count)
    return kernel, several(stride, count) if stride not in ((), [], None) else kernel, several(padding, count)


@converts("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices")
def max_pool_with_indices(b: Builder, *arguments: Any, **keywords: Any) -> list[Value | None]:
    """Maximum pooling, without positions."""
    return [max_pool(b, *arguments, **keywords), None]


@converts("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(
    b: Builder,
    x: Value,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Value:
    """Average pooling."""
    kernel, steps, pad = _windows(x, kernel_size, stride, padding)
    return b.average_pool(x, kernel, steps, pad, pad, ceil_mode, count_include_pad, divisor_override)


@converts("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d")
def adaptive_avg_pool(b: Builder, x: Value, output_size: Sequence[int]) -> Value:
    """Average pooling to a size."""
    return b.adaptive_average(x, output_size)


@converts("adaptive_max_pool1d", "adaptive_max_pool2d")
def adaptive_max_pool(b: Builder, x: Value, output_size: Sequence[int]) -> list[Value | None]:
    """Maximum pooling to a size, without positions."""
    return [b.adaptive_max(x, output_size), None]


_REDUCTIONS = {"mean": "mean", "sum": "sum", "amax": "max", "amin": "min", "logsumexp": "logsumexp"}


def _reducing(kind: str) -> Converter:
    def reduce(b: Builder, x: Value, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
        """Reduction over axes."""
        axes = [dim] if isinstance(dim, int) else dim
        return b.reduce(kind, x, axes or None, keepdim)

    return reduce


for _operator, _kind in _REDUCTIONS.items():
    CONVERTERS[_operator] = _reducing(_kind)


@converts("max")
def largest(b: Builder, x: Value, other: Any = None, keepdim: bool = False) -> Any:
    """The larger of two values, or the largest along an axis and its position."""
    found = _extreme("max", b, x, other, keepdim)
    return [found[0], argmax(b, x, other, keepdim)] if isinstance(found, list) else found


def _extreme(kind: str, b: Builder, x: Value, other: Any, keepdim: bool) -> Any:
    if isinstance(other, Value):
        return b.binary(kind, x, other)
    if other is None:
        return b.reduce(kind, x, None, False)
    return [b.reduce(kind, x, [other], keepdim), None]


@converts("min")
def smallest(b: Builder, x: Value, other: Any = None, keepdim: bool = False) -> Any:
    """The smaller of two values, or the smallest along an axis, without its position."""
    return _extreme("min", b, x, other, keepdim)


@converts("linalg_vector_norm", "norm")
def norm(b: Builder, x: Value, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    """A norm over axes."""
    axes = [dim] if isinstance(dim, int) else dim
    if ord in (1, 2, None):
        return b.reduce("l1" if ord == 1 else "l2", x, axes, keepdim)
    size = b.add("abs", x)
    if ord in (math.inf, -math.inf):
        return b.reduce("max" if ord > 0 else "min", size, axes, keepdim)
    if not ord:
        raise Unsupported("counts the values that are not 0")
    return b.power(b.reduce("sum", b.power(size, ord), axes, keepdim), 1 / ord)


@converts("argmax")
def argmax(b: Builder, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    """Position of the maximum."""
    if dim is None:
        x, dim = b.flatten(x, 0, -1), 0
    top = b.add("argmax", x, axis=b.axis(dim, len(x.shape)))
    return top if keepdim else b.squeeze(top, [dim])
