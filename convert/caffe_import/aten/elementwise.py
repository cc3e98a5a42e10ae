"""Functions of each value by itself: torch's operators as those of operators.py."""

from __future__ import annotations

import math
from typing import Any

from caffe_bridge.convert.caffe_import.aten.registry import CONVERTERS, Converter, converts
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.problems import Unsupported

_PLAIN = {
    "abs": "abs",
    "exp": "exp",
    "hardswish": "hard_swish",
    "log": "log",
    "mish": "mish",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}


def _plain(name: str) -> Converter:
    def activation(b: Builder, x: Value) -> Value:
        """An activation without parameters."""
        return b.add(name, x)

    return activation


for _operator, _kind in _PLAIN.items():
    CONVERTERS[_operator] = _plain(_kind)


@converts("silu")
def silu(b: Builder, x: Value) -> Value:
    """x sigmoid(x)."""
    return b.add("swish", x, beta=1.0)


@converts("relu6")
def relu6(b: Builder, x: Value) -> Value:
    """A ReLU that ends at 6."""
    return b.clip(x, 0, 6)


@converts("hardtanh")
def hardtanh(b: Builder, x: Value, low: float = -1, high: float = 1) -> Value:
    """Limits."""
    return b.clip(x, low, high)


@converts("clamp", "clip")
def clamp(b: Builder, x: Value, low: Any = None, high: Any = None) -> Value:
    """Limits, either of which may be missing."""
    if isinstance(low, Value) or isinstance(high, Value):
        raise Unsupported("limits values by tensors", "use numbers")
    return b.clip(x, -math.inf if low is None else low, math.inf if high is None else high)


@converts("clamp_min")
def clamp_min(b: Builder, x: Value, low: float) -> Value:
    """A lower limit."""
    return b.clip(x, low, math.inf)


@converts("clamp_max")
def clamp_max(b: Builder, x: Value, high: float) -> Value:
    """An upper limit."""
    return b.clip(x, -math.inf, high)


@converts("leaky_relu")
def leaky_relu(b: Builder, x: Value, slope: float = 0.01) -> Value:
    """A slope below 0."""
    return b.add("leaky_relu", x, slope=slope)


@converts("prelu", "_prelu_kernel")
def prelu(b: Builder, x: Value, weight: Value) -> Value:
    """Learned slopes per channel, or one."""
    slope = weight.constant("the slope").reshape(-1, *[1] * max(0, len(x.shape) - 2))
    return b.add("prelu", x, b.constant(slope))


@converts("elu")
def elu(b: Builder, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    """Exponential below 0."""
    if input_scale != 1:
        raise Unsupported("is an ELU with a scaled input")
    return b.power(b.add("elu", x, alpha=alpha), 1, scale)


@converts("selu")
def selu(b: Builder, x: Value) -> Value:
    """A scaled ELU."""
    return elu(b, x, 1.6732632423543772, 1.0507009873554805)


@converts("celu")
def celu(b: Builder, x: Value, alpha: float = 1) -> Value:
    """Exponential below 0, stretched."""
    return b.power(b.add("elu", b.power(x, 1, 1 / alpha), alpha=1.0), 1, alpha)


@converts("softplus")
def softplus(b: Builder, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    """log(1 + exp(beta x)) / beta."""
    return b.power(b.add("softplus", b.power(x, 1, beta)), 1, 1 / beta)


@converts("hardsigmoid")
def hardsigmoid(b: Builder, x: Value) -> Value:
    """A line within 0 and 1."""
    return b.hard_sigmoid(x, 1 / 6, 0.5)


@converts("gelu")
def gelu(b: Builder, x: Value, approximate: str = "none") -> Value:
    """x times the normal distribution's share below x, to 1e-6, or the approximation by tanh."""
    return b.gelu(x, approximate == "tanh")


@converts("log_sigmoid")
def log_sigmoid(b: Builder, x: Value) -> Value:
    """The logarithm of the logistic function."""
    return b.add("log", b.add("sigmoid", x))


_POWERS = {
    "neg": (1.0, -1.0),
    "reciprocal": (-1.0, 1.0),
    "rsqrt": (-0.5, 1.0),
    "sqrt": (0.5, 1.0),
    "square": (2.0, 1.0),
}


def _raised(power: float, scale: float) -> Converter:
    def raised(b: Builder, x: Value) -> Value:
        """A power, or a sign."""
        return b.power(x, power, scale)

    return raised


for _operator, _numbers in _POWERS.items():
    CONVERTERS[_operator] = _raised(*_numbers)


@converts("contiguous", "clone", "detach", "alias", "lift_fresh_copy", "_to_copy", "to", "type_as", "float")
def same(b: Builder, x: Value, *_: Any, **__: Any) -> Value:
    """Nothing; blobs hold single precision whatever the type."""
    return x


@converts("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")
def dropout(b: Builder, x: Value, p: float, train: Any) -> Value:
    """Nothing at inference."""
    if train and p:
        raise Unsupported("drops values at random", "export the module in eval mode")
    return x
