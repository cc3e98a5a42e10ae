"""Layers that compute each value from one value."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_bridge.convert.torch_export.registry import WrittenLayer, writes
from caffe_bridge.convert.torch_export.source import ModuleSource, blob, call, literal


@writes("ReLU")
def relu(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.ReLU, or nn.LeakyReLU for a negative_slope."""
    slope = node.layer.negative_slope
    return code.module(call("nn.LeakyReLU", slope) if slope else "nn.ReLU()", *bottoms)


@writes("ReLU6")
def relu6(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.ReLU6, or nn.LeakyReLU with a limit for a negative_slope."""
    if not node.layer.negative_slope:
        return code.module("nn.ReLU6()", *bottoms)
    return f"{relu(code, node, bottoms)}.clamp(max=6)"


@writes("PReLU")
def prelu(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.PReLU."""
    weight = blob(node, 0, (-1,))
    return code.module(call("nn.PReLU", weight.values.numel()), *bottoms, weight=weight)


@writes("ELU")
def elu(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.ELU."""
    return code.module(call("nn.ELU", node.layer.alpha), *bottoms)


@writes("Sigmoid")
def sigmoid(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.Sigmoid."""
    return code.module("nn.Sigmoid()", *bottoms)


@writes("TanH")
def tanh(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.Tanh."""
    return code.module("nn.Tanh()", *bottoms)


@writes("AbsVal")
def abs_val(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Tensor.abs."""
    return f"{bottoms[0]}.abs()"


@writes("BNLL")
def bnll(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.Softplus."""
    return code.module("nn.Softplus(threshold=50)", *bottoms)


def _scaled(x: str, scale: float, shift: float) -> str:
    """scale * x + shift, without what does nothing."""
    product = x if scale == 1 else f"{literal(scale)} * {x}"
    return f"{product} + {literal(shift)}" if shift else product


@writes("Power")
def power(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Arithmetic: (shift + scale * x) ** power."""
    layer = node.layer
    if layer.power * layer.scale == 0:
        return f"torch.full_like({bottoms[0]}, {literal(layer.shift)}) ** {literal(layer.power)}"
    inner = _scaled(bottoms[0], layer.scale, layer.shift)
    if layer.power == 1:
        return inner
    return f"{inner if inner == bottoms[0] else f'({inner})'} ** {literal(layer.power)}"


@writes("Exp")
def exp(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """torch.exp of shift + scale * x, for other bases scaled."""
    return _scaled(f"torch.exp({_scaled(bottoms[0], node.layer.inner, 0)})", node.layer.outer, 0)


@writes("Log")
def log(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """torch.log of shift + scale * x, for other bases scaled."""
    layer = node.layer
    return _scaled(f"torch.log({_scaled(bottoms[0], layer.scale, layer.shift)})", 1 / layer.log_base, 0)


@writes("Clip")
def clip(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Tensor.clamp."""
    low, high = node.layer.low, node.layer.high
    if not low <= high:
        return f"torch.full_like({bottoms[0]}, {literal(low)})"
    return f"{bottoms[0]}.clamp({literal(low)}, {literal(high)})"


@writes("Swish")
def swish(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.SiLU, or x * sigmoid(beta * x)."""
    beta = node.layer.beta
    if beta == 1:
        return code.module("nn.SiLU()", *bottoms)
    return f"{bottoms[0]} * torch.sigmoid({literal(beta)} * {bottoms[0]})"


@writes("HardSwish")
def hard_swish(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.Hardswish."""
    return code.module("nn.Hardswish()", *bottoms)


@writes("Mish")
def mish(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.Mish."""
    return code.module("nn.Mish()", *bottoms)


@writes("Threshold")
def threshold(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """A comparison."""
    x = bottoms[0]
    return f"({x} > {literal(node.layer.threshold)}).to({x}.dtype)"


@writes("Dropout")
def dropout(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.Dropout, or the factor that `scale_train: false` has in TEST."""
    if node.layer.scale_train:
        return code.module(call("nn.Dropout", node.layer.ratio), *bottoms)
    keep = 1 - node.layer.ratio
    return f"{literal(keep)} * {bottoms[0]}"
