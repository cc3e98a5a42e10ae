"""Layers that move values without changing them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caffe_bridge.convert.onnx_export.builder import GraphBuilder
from caffe_bridge.convert.onnx_export.registry import ExportedLayer, exports
from caffe_bridge.convert.onnx_export.sizes import fixed
from caffe_bridge.layers.base import Shape, canonical_axis


@exports("Reshape", "Flatten")
def reshape(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """The same values in another shape."""
    return [graph.reshape(bottoms[0], node.tops[0])]


@exports("Split")
def split(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Names for one value."""
    return [bottoms[0]] * len(node.tops)


@exports("Silence")
def silence(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Nothing."""
    return []


@exports("Concat")
def concat(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Bottoms one after another."""
    return [graph.add("Concat", *bottoms, axis=canonical_axis(node.layer.axis, len(node.bottoms[0])))]


@exports("Slice")
def slice_(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Parts of fixed sizes."""
    axis = canonical_axis(node.layer.axis, len(node.bottoms[0]))
    sizes = fixed([dims[axis] for dims in node.tops], "the parts' sizes")
    if len(sizes) == 1:
        return [bottoms[0]]
    return graph.add_many("Split", [bottoms[0], graph.integers(*sizes)], len(sizes), axis=axis)


@exports("Permute")
def permute(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Transpose."""
    return [graph.add("Transpose", bottoms[0], perm=node.layer.order)]


@exports("Crop")
def crop(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """A part of the size of the second bottom."""
    first, ndim = canonical_axis(node.layer.axis, len(node.bottoms[0])), len(node.bottoms[0])
    offsets = node.layer.offset or [0]
    count = ndim - first
    starts = graph.integers(*(offsets * count if len(offsets) == 1 else offsets))
    reference = graph.add("Shape", bottoms[1], start=first, end=ndim)
    ends = graph.add("Add", starts, reference)
    return [graph.add("Slice", bottoms[0], starts, ends, graph.integers(*range(first, ndim)))]


@exports("Tile")
def tile(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Repetition along an axis."""
    ndim = len(node.bottoms[0])
    axis = canonical_axis(node.layer.axis, ndim)
    repeats = [node.layer.tiles if i == axis else 1 for i in range(ndim)]
    return [graph.add("Tile", bottoms[0], graph.integers(*repeats))]


@exports("ShuffleChannel")
def shuffle_channel(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Channels of the groups dealt out in turn."""
    images, channels, *size = node.bottoms[0]
    group, (count,) = node.layer.group, fixed([channels], "the channels")
    groups = graph.reshape(bottoms[0], [images, group, count // group, *size])
    turned = graph.add("Transpose", groups, perm=[0, 2, 1, *range(3, 3 + len(size))])
    return [graph.reshape(turned, node.tops[0])]


@exports("Reorg")
def reorg(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Cells to channels as darknet has it, or with `reverse` channels to cells; sizes are those at set-up."""
    images, channels, height, width = fixed(node.bottoms[0])
    s = node.layer.stride
    if node.layer.reverse:
        blocks, order = [images, s, s, channels // s**2, height, width], [0, 3, 4, 1, 5, 2]
    else:
        blocks, order = [images, channels // s**2, height, s, width, s], [0, 3, 5, 1, 2, 4]
    turned = graph.add("Transpose", graph.reshape(bottoms[0], blocks), perm=order)
    return [graph.reshape(turned, node.tops[0])]


def _filtered_shapes(layer: Any, bottoms: list[Shape], rows: int) -> list[Shape]:
    return [(rows, *shape[1:]) for shape in layer.top_shapes(bottoms)]


@exports("Filter", shapes=_filtered_shapes)
def filter_(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """The items for which the selector is not 0; none is allowed."""
    *filtered, selector = bottoms
    chosen = graph.add("NonZero", graph.add("Reshape", selector, graph.integers(-1)))
    index = graph.add("Reshape", chosen, graph.integers(-1))
    return [graph.add("Gather", bottom, index, axis=0) for bottom in filtered]
