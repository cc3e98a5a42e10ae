"""Layers that normalise, and the scales and shifts that follow them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_bridge.convert.onnx_export.builder import GraphBuilder, array_of
from caffe_bridge.convert.onnx_export.registry import ExportedLayer, exports
from caffe_bridge.layers.base import canonical_axis
from caffe_bridge.layers.bn import SegNetBN


@exports("Softmax")
def softmax(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Along one axis."""
    return [graph.add("Softmax", bottoms[0], axis=canonical_axis(node.layer.axis, len(node.bottoms[0])))]


@exports("LRN")
def lrn(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """ONNX's LRN across channels; within a channel the mean is an average pooling of the squares."""
    layer = node.layer
    if not layer.within:
        return [graph.add("LRN", bottoms[0], size=layer.size, alpha=layer.alpha, beta=layer.beta, bias=layer.k)]
    square = graph.add("Mul", bottoms[0], bottoms[0])
    window = {"kernel_shape": [layer.size] * 2, "pads": [layer.size // 2] * 4, "count_include_pad": 1}
    mean = graph.add("AveragePool", square, **window)
    scale = graph.plus(graph.times(mean, layer.alpha), layer.k)
    return [graph.add("Mul", bottoms[0], graph.add("Pow", scale, graph.constant(-layer.beta)))]


@exports("BatchNorm")
def batch_norm(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Running statistics, divided by their factor; or those of the batch."""
    layer = node.layer
    if not layer.use_global_stats:
        return _batch_statistics(graph, bottoms[0], len(node.bottoms[0]), layer.eps)[:1]
    mean, variance, factor = (array_of(blob) for blob in layer.blobs)
    scale = np.float32(0 if factor[0] == 0 else 1 / factor[0])
    one, zero = np.ones_like(mean), np.zeros_like(mean)
    return [_normalized(graph, bottoms[0], (one, zero, mean * scale, variance * scale), layer.eps)]


@exports("BN")
def bn(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """PSPNet's layer with its running statistics, or SegNet's, which has those of the batch or none."""
    layer, ndim = node.layer, len(node.bottoms[0])
    if not isinstance(layer, SegNetBN):
        return [_normalized(graph, bottoms[0], [array_of(blob).ravel() for blob in layer.blobs], layer.eps)]
    bottom = bottoms[0]
    if ndim < 4:
        bottom = graph.add("Unsqueeze", bottom, graph.integers(*range(ndim, 4)))
    statistics: list[str] = []
    if layer.learns:
        bottom, *statistics = _batch_statistics(graph, bottom, 4, layer.EPS)
    top = graph.add("Add", graph.add("Mul", bottom, graph.weight(layer, 0)), graph.weight(layer, 1))
    return [top, *statistics][: layer.count]


def _normalized(graph: GraphBuilder, bottom: str, parameters: Sequence[np.ndarray], eps: float) -> str:
    """BatchNormalization by scale, shift, mean and variance, (C,) each."""
    return graph.add("BatchNormalization", bottom, *(graph.constant(array) for array in parameters), epsilon=eps)


def _batch_statistics(graph: GraphBuilder, bottom: str, ndim: int, eps: float) -> list[str]:
    """The values normalised by their own means and biased variances per channel, and these."""
    axes = [axis for axis in range(ndim) if axis != 1]
    mean = graph.reduce("ReduceMean", bottom, axes)
    centred = graph.add("Sub", bottom, mean)
    variance = graph.reduce("ReduceMean", graph.add("Mul", centred, centred), axes)
    deviation = graph.add("Sqrt", graph.plus(variance, eps))
    return [graph.add("Div", centred, deviation), mean, variance]


@exports("Scale")
def scale(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """A learned or given factor per channel, or per anything, and a learned term."""
    layer = node.layer
    factor = graph.weight(layer, 0) if layer.learned else bottoms[1]
    axes = layer.blobs[0].ndim if layer.learned else len(node.bottoms[1])
    top = graph.add("Mul", bottoms[0], _spread(graph, node, factor, axes))
    if layer.with_bias:
        top = graph.add("Add", top, _spread(graph, node, graph.weight(layer, len(layer.blobs) - 1), axes))
    return [top]


@exports("Bias")
def bias(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """A learned or given term per channel, or per anything."""
    learned = len(bottoms) == 1
    term = graph.weight(node.layer, 0) if learned else bottoms[1]
    axes = node.layer.blobs[0].ndim if learned else len(node.bottoms[1])
    return [graph.add("Add", bottoms[0], _spread(graph, node, term, axes))]


def _spread(graph: GraphBuilder, node: ExportedLayer, operand: str, axes: int) -> str:
    ndim = len(node.bottoms[0])
    return graph.spread(operand, axes, ndim, canonical_axis(node.layer.axis, ndim))


@exports("MVN")
def mvn(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Mean 0, and standard deviation 1, of each channel or image."""
    layer, ndim = node.layer, len(node.bottoms[0])
    bottom = bottoms[0]
    if ndim < 4:
        bottom = graph.add("Unsqueeze", bottom, graph.integers(*range(ndim, 4)))
    axes = list(range(layer.first, 4))
    centred = graph.add("Sub", bottom, graph.reduce("ReduceMean", bottom, axes))
    if not layer.with_variance:
        return [centred]
    deviation = graph.add("Sqrt", graph.reduce("ReduceMean", graph.add("Mul", centred, centred), axes))
    return [graph.add("Div", centred, graph.plus(deviation, layer.eps))]


@exports("Normalize")
def normalize(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """The L2 norm over channels, or whole images, and a learned scale."""
    layer, ndim = node.layer, len(node.bottoms[0])
    axes = list(range(1, ndim)) if layer.across_spatial else [1]
    square = graph.reduce("ReduceSum", graph.add("Mul", bottoms[0], bottoms[0]), axes)
    unit = graph.add("Div", bottoms[0], graph.add("Sqrt", graph.plus(square, layer.eps)))
    factor = graph.spread(graph.weight(layer, 0), layer.blobs[0].ndim, ndim, 1)
    return [graph.add("Mul", unit, factor)]
