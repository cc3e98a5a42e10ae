"""Layers that compute each value from one value."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_bridge.convert.onnx_export.builder import GraphBuilder
from caffe_bridge.convert.onnx_export.registry import ExportedLayer, exports


@exports("ReLU")
def relu(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """ReLU, or LeakyReLU for a negative_slope."""
    slope = node.layer.negative_slope
    return [graph.add("LeakyRelu", bottoms[0], alpha=slope) if slope else graph.add("Relu", bottoms[0])]


@exports("ReLU6")
def relu6(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """A ReLU that ends at 6."""
    return [graph.add("Min", *relu(graph, node, bottoms), graph.constant(6))]


@exports("PReLU")
def prelu(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Slopes per channel, or one."""
    slope = graph.weight(node.layer, 0)
    if not node.layer.shared:
        slope = graph.spread(slope, 1, len(node.bottoms[0]), 1)
    return [graph.add("PRelu", bottoms[0], slope)]


@exports("ELU")
def elu(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Exponential below 0."""
    return [graph.add("Elu", bottoms[0], alpha=node.layer.alpha)]


@exports("Sigmoid")
def sigmoid(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """The logistic function."""
    return [graph.add("Sigmoid", bottoms[0])]


@exports("TanH")
def tanh(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """The hyperbolic tangent."""
    return [graph.add("Tanh", bottoms[0])]


@exports("AbsVal")
def abs_val(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """The absolute value."""
    return [graph.add("Abs", bottoms[0])]


@exports("BNLL")
def bnll(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """log(1 + exp(x))."""
    return [graph.add("Softplus", bottoms[0])]


@exports("Power")
def power(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """(shift + scale * x)^power."""
    layer = node.layer
    if layer.power * layer.scale == 0:
        return [graph.add("Pow", graph.filled(bottoms[0], layer.shift), graph.constant(layer.power))]
    top = graph.plus(graph.times(bottoms[0], layer.scale), layer.shift)
    return [top if layer.power == 1 else graph.add("Pow", top, graph.constant(layer.power))]


@exports("Exp")
def exp(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """A base to the power of shift + scale * x."""
    return [graph.times(graph.add("Exp", graph.times(bottoms[0], node.layer.inner)), node.layer.outer)]


@exports("Log")
def log(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """The logarithm of shift + scale * x to a base."""
    layer = node.layer
    top = graph.add("Log", graph.plus(graph.times(bottoms[0], layer.scale), layer.shift))
    return [graph.times(top, 1 / layer.log_base)]


@exports("Clip")
def clip(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Limits, `min` where they contradict."""
    low, high = node.layer.low, node.layer.high
    if not low <= high:
        return [graph.filled(bottoms[0], low)]
    return [graph.add("Clip", bottoms[0], graph.constant(low), graph.constant(high))]


@exports("Swish")
def swish(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """x sigmoid(beta x)."""
    return [graph.add("Mul", bottoms[0], graph.add("Sigmoid", graph.times(bottoms[0], node.layer.beta)))]


@exports("HardSwish")
def hard_swish(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """x * relu6(x + 3) / 6."""
    return [graph.add("HardSwish", bottoms[0])]


@exports("Mish")
def mish(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """x tanh(softplus(x))."""
    return [graph.add("Mul", bottoms[0], graph.add("Tanh", graph.add("Softplus", bottoms[0])))]


@exports("Threshold")
def threshold(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """1 above the threshold, else 0."""
    above = graph.add("Greater", bottoms[0], graph.constant(node.layer.threshold))
    return [graph.add("Cast", above, to=1)]


@exports("Dropout")
def dropout(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Nothing in TEST, or the factor of `scale_train: false`."""
    return [bottoms[0] if node.layer.scale_train else graph.times(bottoms[0], 1 - node.layer.ratio)]
