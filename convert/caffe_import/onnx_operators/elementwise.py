"""Functions of each value by itself: ONNX operators as those of operators.py."""

from __future__ import annotations

from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.onnx_node import OnnxNode
from caffe_bridge.convert.caffe_import.onnx_operators.registry import Inputs, constants, converts

_PLAIN = {
    "Abs": "abs",
    "Exp": "exp",
    "HardSwish": "hard_swish",
    "Log": "log",
    "Mish": "mish",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Tanh": "tanh",
}


@converts(*_PLAIN)
def plain(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Activations without parameters."""
    return b.add(_PLAIN[node.operator], inputs[0])


@converts("LeakyRelu")
def leaky_relu(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """A slope below 0."""
    return b.add("leaky_relu", inputs[0], slope=node.get("alpha", 0.01))


@converts("PRelu")
def prelu(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Learned slopes per channel, or one."""
    return b.add("prelu", inputs[0], b.constant(inputs[1].constant("the slope"), inputs[1].name))


@converts("Elu")
def elu(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Exponential below 0."""
    return b.add("elu", inputs[0], alpha=node.get("alpha", 1.0))


@converts("Selu")
def selu(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """A scaled ELU."""
    top = b.add("elu", inputs[0], alpha=node.get("alpha", 1.6732632))
    return b.power(top, 1, node.get("gamma", 1.0507010))


@converts("Celu")
def celu(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Exponential below 0, stretched."""
    alpha = node.get("alpha", 1.0)
    return b.power(b.add("elu", b.power(inputs[0], 1, 1 / alpha), alpha=1.0), 1, alpha)


@converts("Swish")
def swish(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """x sigmoid(alpha x)."""
    return b.add("swish", inputs[0], beta=node.get("alpha", 1.0))


@converts("HardSigmoid")
def hard_sigmoid(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """A line within 0 and 1."""
    return b.hard_sigmoid(inputs[0], node.get("alpha", 0.2), node.get("beta", 0.5))


@converts("Gelu")
def gelu(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """x times the normal distribution's share below x, to 1e-6, or the approximation by tanh."""
    return b.gelu(inputs[0], node.get("approximate", "none") == "tanh")


@converts("Erf")
def erf(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """The error function, to 1e-6."""
    return b.add("erf", inputs[0])


@converts("Softsign")
def softsign(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """x / (1 + |x|)."""
    return b.add("mul", inputs[0], b.power(b.power(b.add("abs", inputs[0]), 1, 1, 1), -1))


@converts("Clip")
def clip(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Limits."""
    for value in inputs[1:3]:
        if value is not None:
            value.constant("a limit")
    return b.clip(inputs[0], *node.limits(constants(inputs)))


_POWERS = {"Sqrt": (0.5, 1.0), "Reciprocal": (-1.0, 1.0), "Neg": (1.0, -1.0)}


@converts(*_POWERS)
def power(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Powers and signs."""
    return b.power(inputs[0], *_POWERS[node.operator])


@converts("Identity", "Dropout", "Cast", "CastLike")
def identity(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Nothing at inference; blobs hold single precision whatever the type."""
    return inputs[0]
