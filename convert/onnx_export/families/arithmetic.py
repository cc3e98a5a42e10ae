"""Layers that combine blobs, or sum and sort within one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from caffe_bridge.config import cfg
from caffe_bridge.convert.onnx_export.builder import END, GraphBuilder
from caffe_bridge.convert.onnx_export.registry import ExportedLayer, exports
from caffe_bridge.layers.base import canonical_axis
from caffe_bridge.layers.torch_image_transform import DEVIATIONS, MEANS


@exports("Eltwise")
def eltwise(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """PROD, SUM with coefficients, or MAX."""
    layer = node.layer
    if layer.operation == "SUM":
        coefficients = layer.coefficients or [1.0] * len(bottoms)
        return [graph.add("Sum", *(graph.times(b, c) for b, c in zip(bottoms, coefficients)))]
    if layer.operation == "MAX":
        return [graph.add("Max", *bottoms)]
    top = bottoms[0]
    for bottom in bottoms[1:]:
        top = graph.add("Mul", top, bottom)
    return [top]


@exports("Axpy")
def axpy(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """a * x + b, a per channel."""
    factor, x, term = bottoms
    dims = node.bottoms[1]
    if len(node.bottoms[0]) != len(dims):
        factor = graph.reshape(factor, [*dims[:2], *[1] * (len(dims) - 2)])
    return [graph.add("Add", graph.add("Mul", factor, x), term)]


@exports("Reduction")
def reduction(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """SUM, ASUM, SUMSQ or MEAN over the last axes."""
    layer, ndim = node.layer, len(node.bottoms[0])
    axes = list(range(canonical_axis(layer.axis, ndim), ndim))
    values = bottoms[0]
    if layer.operation == "ASUM":
        values = graph.add("Abs", values)
    elif layer.operation == "SUMSQ":
        values = graph.add("Mul", values, values)
    operator = "ReduceMean" if layer.operation == "MEAN" else "ReduceSum"
    if graph.target == "opencv5" and not node.tops[0]:  # whose scalars have an axis
        top = graph.times(graph.reduce(operator, values, axes), layer.coeff)
        return [graph.add("Reshape", top, graph.constant([], "int64"))]
    return [graph.times(graph.reduce(operator, values, axes, keepdims=False), layer.coeff)]


@exports("ArgMax")
def argmax(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """TopK of the scores in reverse, since in Caffe the last of equal ones comes first."""
    layer = node.layer
    if layer.axis is None:
        scores, axis = graph.add("Flatten", bottoms[0], axis=1), 1
    else:
        scores, axis = bottoms[0], canonical_axis(layer.axis, len(node.bottoms[0]))
    last, end, along, back = (graph.integers(value) for value in (-1, -END, axis, -1))
    turned = graph.add("Slice", scores, last, end, along, back)
    values, index = graph.add_many("TopK", [turned, graph.integers(layer.top_k)], 2, axis=axis)
    highest = graph.add("Sub", graph.size(scores, axis), graph.integers(1))
    top = graph.add("Cast", graph.add("Sub", highest, index), to=TensorProto.FLOAT)
    if layer.axis is not None:
        return [values if layer.with_values else top]
    if layer.with_values:
        middle = graph.integers(1)
        top = graph.add("Concat", *(graph.add("Unsqueeze", x, middle) for x in (top, values)), axis=1)
    return [graph.reshape(top, node.tops[0])]


@exports("BatchReindex")
def batch_reindex(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Items chosen by index."""
    return [graph.add("Gather", bottoms[0], graph.add("Cast", bottoms[1], to=TensorProto.INT64), axis=0)]


@exports("transform.torch_image_transform_layer.TorchImageTransformLayer")
def torch_image_transform(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Red, green, blue of an image, with the means and deviations of Torch's models."""
    old, mean, deviation = (np.reshape(v, (1, 3, 1, 1)) for v in (cfg.PIXEL_MEANS, MEANS, DEVIATIONS))
    image = graph.add("Gather", graph.add("Add", bottoms[0], graph.constant(old)), graph.integers(2, 1, 0), axis=1)
    image = graph.add("Mul", image, graph.constant(1 / (255 * deviation)))
    return [graph.add("Sub", image, graph.constant(mean / deviation))]
