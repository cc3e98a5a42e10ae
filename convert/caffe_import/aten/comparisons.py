"""Comparisons and choices: torch's operators as those of operators.py."""

from __future__ import annotations

from typing import Any

from caffe_bridge.convert.caffe_import import comparisons
from caffe_bridge.convert.caffe_import.aten.combination import value_of
from caffe_bridge.convert.caffe_import.aten.registry import converts
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value


@converts("gt")
def gt(b: Builder, x: Value, y: Any) -> Value:
    """1 where x > y."""
    return comparisons.above(b, x, value_of(b, y))


@converts("lt")
def lt(b: Builder, x: Value, y: Any) -> Value:
    """1 where x < y."""
    return comparisons.above(b, value_of(b, y), x)


@converts("ge")
def ge(b: Builder, x: Value, y: Any) -> Value:
    """1 where x >= y."""
    return comparisons.at_least(b, x, value_of(b, y))


@converts("le")
def le(b: Builder, x: Value, y: Any) -> Value:
    """1 where x <= y."""
    return comparisons.at_least(b, value_of(b, y), x)


@converts("eq")
def eq(b: Builder, x: Value, y: Any) -> Value:
    """1 where x == y."""
    return comparisons.equal(b, x, value_of(b, y))


@converts("ne")
def ne(b: Builder, x: Value, y: Any) -> Value:
    """1 where x != y."""
    return comparisons.inverse(b, eq(b, x, y))


@converts("where")
def where(b: Builder, mask: Value, x: Any, y: Any) -> Value:
    """One value where a comparison holds, another elsewhere."""
    return comparisons.chosen(b, mask, value_of(b, x), value_of(b, y))


@converts("masked_fill")
def masked_fill(b: Builder, x: Value, mask: Value, value: Any) -> Value:
    """A number where a comparison holds."""
    return comparisons.chosen(b, mask, value_of(b, value), x)


@converts("sign", "sgn")
def sign(b: Builder, x: Value) -> Value:
    """-1, 0 or 1."""
    return b.add("sign", x)
