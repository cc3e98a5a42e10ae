"""Comparisons and choices: torch's operators as those of operators.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from caffe_bridge.convert.caffe_import import comparisons
from caffe_bridge.convert.caffe_import.aten.registry import converts
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value


def _value(b: Builder, found: Any) -> Value:
    return found if isinstance(found, Value) else b.constant(np.float32(found))


@converts("lt")
def lt(b: Builder, x: Value, y: Any) -> Value:
    """1 where x < y."""
    return comparisons.above(b, _value(b, y), x)


@converts("ge")
def ge(b: Builder, x: Value, y: Any) -> Value:
    """1 where x >= y."""
    return comparisons.at_least(b, x, _value(b, y))


@converts("le")
def le(b: Builder, x: Value, y: Any) -> Value:
    """1 where x <= y."""
    return comparisons.at_least(b, _value(b, y), x)


@converts("eq")
def eq(b: Builder, x: Value, y: Any) -> Value:
    """1 where x == y."""
    return comparisons.equal(b, x, _value(b, y))


@converts("ne")
def ne(b: Builder, x: Value, y: Any) -> Value:
    """1 where x != y."""
    return comparisons.inverse(b, eq(b, x, y))


@converts("where")
def where(b: Builder, mask: Value, x: Any, y: Any) -> Value:
    """One value where a comparison holds, another elsewhere."""
    return comparisons.chosen(b, mask, _value(b, x), _value(b, y))


@converts("masked_fill")
def masked_fill(b: Builder, x: Value, mask: Value, value: Any) -> Value:
    """A number where a comparison holds."""
    return comparisons.chosen(b, mask, _value(b, value), x)


@converts("sign", "sgn")
def sign(b: Builder, x: Value) -> Value:
    """-1, 0 or 1."""
    return b.add("sign", x)
