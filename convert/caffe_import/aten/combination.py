"""Values of several tensors together: torch's operators as those of operators.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from caffe_bridge.convert.caffe_import.aten.registry import converts
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.problems import Unsupported


def value_of(b: Builder, found: Any) -> Value:
    """A value, for a number a constant."""
    return found if isinstance(found, Value) else b.constant(np.float32(found))


@converts("add")
def add(b: Builder, x: Any, y: Any, alpha: float = 1) -> Value:
    """x + alpha y."""
    return b.binary("add", value_of(b, x), _times(b, value_of(b, y), alpha))


@converts("sub", "subtract")
def sub(b: Builder, x: Any, y: Any, alpha: float = 1) -> Value:
    """x - alpha y."""
    return b.binary("sub", value_of(b, x), _times(b, value_of(b, y), alpha))


@converts("rsub")
def rsub(b: Builder, x: Any, y: Any, alpha: float = 1) -> Value:
    """y - alpha x."""
    return sub(b, y, x, alpha)


def _times(b: Builder, value: Value, factor: float) -> Value:
    return b.constant(value.array * np.float32(factor)) if value.array is not None else b.power(value, 1, factor)


@converts("mul", "multiply")
def mul(b: Builder, x: Any, y: Any) -> Value:
    """A product."""
    return b.binary("mul", value_of(b, x), value_of(b, y))


@converts("div", "divide", "true_divide")
def div(b: Builder, x: Any, y: Any, rounding_mode: Any = None) -> Value:
    """A quotient."""
    if rounding_mode is not None:
        raise Unsupported("rounds a quotient")
    return b.binary("div", value_of(b, x), value_of(b, y))


@converts("pow")
def power(b: Builder, x: Any, y: Any) -> Value:
    """A power."""
    return b.binary("pow", value_of(b, x), value_of(b, y))


@converts("maximum")
def maximum(b: Builder, x: Value, y: Value) -> Value:
    """The larger."""
    return b.binary("max", x, y)


@converts("minimum")
def minimum(b: Builder, x: Value, y: Value) -> Value:
    """The smaller."""
    return b.binary("min", x, y)


@converts("cat", "concat", "concatenate")
def cat(b: Builder, tensors: Sequence[Value], dim: int = 0) -> Value:
    """Values one after another."""
    return b.concat(list(tensors), dim)


@converts("stack")
def stack(b: Builder, tensors: Sequence[Value], dim: int = 0) -> Value:
    """Values one after another along a new axis."""
    return b.concat([b.unsqueeze(value, [dim]) for value in tensors], dim)
