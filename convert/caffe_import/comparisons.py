"""Comparisons, as 1 where they hold and 0 elsewhere, and choices by them."""

from __future__ import annotations

import numpy as np

from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.problems import Unsupported


def above(b: Builder, x: Value, y: Value) -> Value:
    """x > y; one of them may be constant."""
    if y.array is not None and y.array.size and (y.array == y.array.flat[0]).all():
        return b.add("threshold", b.expand(x, np.broadcast_shapes(x.shape, y.shape)), threshold=float(y.array.flat[0]))
    return b.add("threshold", b.binary("sub", x, y), threshold=0.0)


def at_least(b: Builder, x: Value, y: Value) -> Value:
    """x >= y."""
    return inverse(b, above(b, y, x))


def equal(b: Builder, x: Value, y: Value) -> Value:
    """x == y."""
    return b.add("mul", at_least(b, x, y), at_least(b, y, x))


def inverse(b: Builder, mask: Value) -> Value:
    """1 where it was 0, and 0 where it was 1."""
    return b.power(mask, 1, -1, 1)


def chosen(b: Builder, mask: Value, x: Value, y: Value) -> Value:
    """x where the mask is 1, y where it is 0."""
    for value in (x, y):
        if value.array is not None and not np.isfinite(value.array).all():
            raise Unsupported("puts values that are not finite in places", "use a large number")
    if x.array is None or y.array is None:
        return b.binary("add", b.binary("mul", mask, b.binary("sub", x, y)), y)
    return b.binary("add", b.binary("mul", mask, b.constant(np.subtract(x.array, y.array, dtype=np.float32))), y)
