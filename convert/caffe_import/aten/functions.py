"""Functions that Caffe has under other names or composes of several: torch's operators as those of operators.py."""

from __future__ import annotations

import math

import numpy as np

from caffe_bridge.convert.caffe_import.aten.registry import converts
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value


@converts("log1p")
def log1p(b: Builder, x: Value) -> Value:
    """log(1 + x)."""
    return b.add("log", b.power(x, 1, 1, 1))


@converts("log2")
def log2(b: Builder, x: Value) -> Value:
    """The logarithm to base 2."""
    return b.power(b.add("log", x), 1, 1 / math.log(2))


@converts("log10")
def log10(b: Builder, x: Value) -> Value:
    """The logarithm to base 10."""
    return b.power(b.add("log", x), 1, 1 / math.log(10))


@converts("expm1")
def expm1(b: Builder, x: Value) -> Value:
    """exp(x) - 1."""
    return b.power(b.add("exp", x), 1, 1, -1)


@converts("exp2")
def exp2(b: Builder, x: Value) -> Value:
    """2 to the power of x."""
    return b.binary("pow", b.constant(np.float32(2)), x)


@converts("erf")
def erf(b: Builder, x: Value) -> Value:
    """The error function, to 1e-6."""
    return b.add("erf", x)


@converts("softshrink")
def softshrink(b: Builder, x: Value, limit: float = 0.5) -> Value:
    """Values beyond a limit on either side, moved towards 0 by it; 0 for others."""
    return b.add("sub", b.add("relu", b.power(x, 1, 1, -limit)), b.add("relu", b.power(x, 1, -1, -limit)))
