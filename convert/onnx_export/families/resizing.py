"""Layers that make images larger or smaller."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto

from caffe_bridge.convert.onnx_export.builder import END, GraphBuilder
from caffe_bridge.convert.onnx_export.registry import ExportedLayer, exports
from caffe_bridge.convert.onnx_export.sizes import fixed


@exports("Interp")
def interp(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Bilinear resizing with corners in place, after cropping."""
    layer, bottom = node.layer, bottoms[0]
    if layer.begin or layer.end:
        starts, ends = graph.integers(layer.begin, layer.begin), graph.integers(*[-layer.end or END] * 2)
        bottom = graph.add("Slice", bottom, starts, ends, graph.integers(2, 3))
    if layer.fixed:
        size = graph.integers(*layer.fixed)
    else:
        one = graph.integers(1)
        cropped = graph.add("Shape", bottom, start=2, end=4)
        shrunk = graph.add("Div", graph.add("Sub", cropped, one), graph.integers(layer.shrink))
        size = graph.add("Add", graph.add("Mul", shrunk, graph.integers(layer.zoom)), one)
    sizes = graph.add("Concat", graph.add("Shape", bottom, start=0, end=2), size, axis=0)
    how = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    return [graph.add("Resize", bottom, "", "", sizes, **how)]


@exports("Upsample")
def upsample(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """YOLO's repetition of cells, or SegNet's unpooling."""
    if node.layer.unpools:
        return [_unpooled(graph, node, *bottoms)]
    scale = node.layer.scale
    scales = graph.constant([1, 1, scale, scale])
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return [graph.add("Resize", bottoms[0], "", scales, **how)]


def _unpooled(graph: GraphBuilder, node: ExportedLayer, values: str, mask: str) -> str:
    """Planes of zeros with the values where the mask says; of several at one place the last counts."""
    fixed(node.bottoms[0][2:], "the image's sizes")
    height, width = node.layer.size
    images, channels = node.bottoms[0][:2]
    planes = graph.add("Expand", graph.constant(0), graph.shape([images, channels, height * width]))
    flat = graph.integers(0, 0, -1)
    index = graph.add("Cast", graph.add("Reshape", mask, flat), to=TensorProto.INT64)
    top = graph.add("ScatterElements", planes, index, graph.add("Reshape", values, flat), axis=2)
    return graph.reshape(top, node.tops[0])
