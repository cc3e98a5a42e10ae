"""Layers that cut regions of interest out of feature maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from caffe_bridge.convert.onnx_export.builder import GraphBuilder
from caffe_bridge.convert.onnx_export.registry import ExportedLayer, exports
from caffe_bridge.convert.onnx_export.sizes import fixed

_LOWEST = float(np.finfo(np.float32).min)


@exports("ROIPooling")
def roi_pooling(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """MaxRoiPool; where programs lack it (OpenCV 5, opset 22) maxima of windows with sides that are powers of two"""
    features, rois = bottoms[0], _rows(graph, node, bottoms[1])
    pooled, scale = node.layer.pooled_size, node.layer.spatial_scale
    if graph.target != "opencv5" and graph.opset < 22:
        return [graph.add("MaxRoiPool", features, rois, pooled_shape=pooled, spatial_scale=scale)]
    shape = fixed(node.bottoms[0], "the features' sizes")
    corners = _rounded(graph, graph.times(graph.part(rois, 1, 1), scale))
    rows, columns = (
        _power_windows(graph, *_pool_edges(graph, corners, axis, bins, size), size)
        for axis, bins, size in ((1, pooled[0], shape[2]), (0, pooled[1], shape[3]))
    )
    return [_largest(graph, features, shape, _image(graph, rois), rows, columns)]


def _pool_edges(graph: GraphBuilder, corners: str, axis: int, bins: int, size: int) -> tuple[str, str]:
    """First and past-the-end cell (R, bins) of each bin, limited to the map."""
    start, end = _side(graph, corners, axis)
    length = graph.add("Max", graph.plus(graph.add("Sub", end, start), 1), graph.constant(1))
    each = graph.add("Div", length, graph.constant(bins))
    first = graph.add("Floor", graph.add("Mul", each, graph.constant(range(bins))))
    last = graph.add("Ceil", graph.add("Mul", each, graph.constant(range(1, bins + 1))))
    limit = graph.constant(size)
    first, last = (_within(graph, graph.add("Add", edge, start), limit) for edge in (first, last))
    return first, last


class _Windows(NamedTuple):
    """Along one axis, the two windows of a power of two that cover each bin between them.

    `power` numbers the power, `starts` are the windows' first cells; `empty` tells which bins have no cell.
    """

    power: str
    starts: tuple[str, str]
    empty: str


def _power_windows(graph: GraphBuilder, first: str, last: str, size: int) -> _Windows:
    length, powers = graph.add("Sub", last, first), _powers(size)
    power = graph.integers(0)
    for side in powers[1:]:
        reached = graph.add("GreaterOrEqual", length, graph.integers(side))
        power = graph.add("Add", power, graph.cast(reached, TensorProto.INT64))
    starts = first, graph.add("Sub", last, graph.add("Gather", graph.integers(*powers), power, axis=0))
    limits = graph.integers(0), graph.integers(size - 1)
    near, far = (graph.add("Min", graph.add("Max", start, limits[0]), limits[1]) for start in starts)
    return _Windows(power, (near, far), graph.add("LessOrEqual", length, limits[0]))


def _powers(size: int) -> list[int]:
    """1, 2, 4, ... up to a size."""
    return [1 << i for i in range(size.bit_length())]


def _largest(
    graph: GraphBuilder, features: str, shape: Sequence[int], image: str, rows: _Windows, columns: _Windows
) -> str:
    """The maximum of each bin (R, C, PH, PW), 0 where it is empty.

    A table holds, for each cell, the maxima of the windows that begin there, in all combinations of sides.
    """
    _, channels, height, width = shape
    cells = math.prod(shape) // channels
    level = graph.add("Transpose", features, perm=[0, 2, 3, 1])
    levels = []
    for tall in _doubled(graph, level, 1, height):
        levels += [graph.add("Reshape", w, graph.integers(-1, channels)) for w in _doubled(graph, tall, 2, width)]
    table = graph.add("Concat", *levels, axis=0) if len(levels) > 1 else levels[0]

    def numbered(start: str, factor: int) -> str:
        return graph.add("Mul", start, graph.integers(factor))

    image = numbered(image, height * width)
    by_row = graph.add("Add", numbered(rows.power, cells * len(_powers(width))), image)
    by_column = numbered(columns.power, cells)
    tops = []
    for row in rows.starts:
        for column in columns.starts:
            along = graph.add("Add", by_row, numbered(row, width))
            across = graph.add("Add", by_column, column)
            index = graph.add("Add", _down(graph, along), _across(graph, across))
            tops.append(graph.add("Gather", table, index, axis=0))
    empty = graph.add("Or", _down(graph, rows.empty), _across(graph, columns.empty))
    empty = graph.add("Unsqueeze", empty, graph.integers(3))
    top = graph.add("Where", empty, graph.constant(0), graph.add("Max", *tops))
    return graph.add("Transpose", top, perm=[0, 3, 1, 2])


def _doubled(graph: GraphBuilder, level: str, axis: int, size: int) -> list[str]:
    """Maxima of 1, 2, 4, ... cells of (N, H, W, C) along an axis, each at the first of them."""
    levels = [level]
    for side in _powers(size)[:-1]:
        pads = [0] * 8
        pads[4 + axis] = side
        moved = graph.add("Pad", graph.part(levels[-1], axis, side), graph.integers(*pads), graph.constant(_LOWEST))
        levels.append(graph.add("Max", levels[-1], moved))
    return levels


@exports("ROIWarping")
def roi_warping(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Four cells and their weights, gathered for each sample."""
    features, rois = bottoms[0], _rows(graph, node, bottoms[1])
    corners = _rounded(graph, graph.times(graph.part(rois, 1, 1), node.layer.spatial_scale))
    y, x = (_samples(graph, features, corners, axis, count) for axis, count in zip((1, 0), node.layer.pooled_size))
    flat = graph.add("Transpose", features, perm=[0, 2, 3, 1])
    flat = graph.reshape(flat, [-1, *fixed(node.bottoms[0][1:2], "the channels")])
    height, width = graph.size(features, 2), graph.size(features, 3)
    above = graph.add("Mul", _image(graph, rois), height)
    top = ""
    for row, row_weight in y:
        before = _down(graph, graph.add("Mul", graph.add("Add", above, row), width))
        for column, column_weight in x:
            index = graph.add("Add", before, _across(graph, column))
            weight = graph.add("Mul", _down(graph, row_weight), _across(graph, column_weight))
            weight = graph.add("Unsqueeze", weight, graph.integers(3))
            term = graph.add("Mul", graph.add("Gather", flat, index, axis=0), weight)
            top = graph.add("Add", top, term) if top else term
    return [graph.add("Transpose", top, perm=[0, 3, 1, 2])]


def _samples(graph: GraphBuilder, features: str, corners: str, axis: int, count: int) -> list[tuple[str, str]]:
    """The two cells (R, count) around each sample along an axis, 0 for x, and their weights; 0 outside the map."""
    start, end = _side(graph, corners, axis)
    zero, half = graph.constant(0), graph.constant(0.5)
    each = graph.add("Div", graph.add("Max", graph.add("Sub", end, start), zero), graph.constant(count))
    position = graph.add("Add", start, graph.add("Mul", each, graph.constant(range(count))))
    size = _extent(graph, features, 3 - axis)
    inside = graph.add(
        "And",
        graph.add("GreaterOrEqual", position, graph.constant(-0.5)),
        graph.add("LessOrEqual", position, graph.add("Sub", size, half)),
    )
    last = graph.plus(size, -1)
    position = graph.add("Min", graph.add("Max", position, zero), last)
    low = graph.add("Floor", position)
    high = graph.add("Min", graph.plus(low, 1), last)
    high_weight = graph.add("Sub", position, low)
    low_weight = graph.add("Sub", graph.constant(1), high_weight)
    return [
        (graph.cast(cell, TensorProto.INT64), graph.add("Where", inside, weight, zero))
        for cell, weight in ((low, low_weight), (high, high_weight))
    ]


@exports("PSROIPooling")
def psroi_pooling(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Means of bins as differences of cumulative sums, which are kept in double precision."""
    layer, features, rois = node.layer, bottoms[0], _rows(graph, node, bottoms[1])
    group, channels = layer.group_size, layer.output_dim * layer.group_size**2
    corners = _rounded(graph, graph.part(rois, 1, 1))
    (top, bottom), (left, right) = (_group_edges(graph, node, features, corners, axis) for axis in (1, 0))
    height, width = (graph.add("Sub", end, start) for start, end in ((top, bottom), (left, right)))
    zero, one = graph.integers(0), graph.integers(1)
    area = graph.add("Mul", _down(graph, graph.add("Max", height, zero)), _across(graph, graph.add("Max", width, zero)))
    sums = graph.add("Pad", graph.cast(features, TensorProto.DOUBLE), graph.integers(0, 0, 1, 1, 0, 0, 0, 0))
    for axis in (2, 3):
        sums = graph.add("CumSum", sums, graph.constant(axis, np.int64))
    columns = graph.size(sums, 3)
    plane = graph.add("Mul", graph.size(sums, 2), columns)
    numbers = graph.constant(np.arange(channels).reshape(1, layer.output_dim, group, group), np.int64)
    image = graph.add("Unsqueeze", _image(graph, rois), graph.integers(2, 3))
    first = graph.add("Mul", graph.add("Add", graph.add("Mul", image, graph.integers(channels)), numbers), plane)
    flat = graph.add("Reshape", sums, graph.integers(-1))

    def corner(row: str, column: str) -> str:
        cell = graph.add("Add", _down(graph, graph.add("Mul", row, columns)), _across(graph, column))
        return graph.add("Gather", flat, graph.add("Add", first, graph.add("Unsqueeze", cell, one)), axis=0)

    rest = graph.add("Sub", corner(top, right), corner(top, left))
    total = graph.add("Sub", graph.add("Sub", corner(bottom, right), corner(bottom, left)), rest)
    area = graph.add("Unsqueeze", area, one)
    count = graph.cast(graph.add("Max", area, one), TensorProto.DOUBLE)
    mean = graph.cast(graph.add("Div", total, count), TensorProto.FLOAT)
    return [graph.add("Where", graph.add("Greater", area, zero), mean, graph.constant(0))]


def _group_edges(graph: GraphBuilder, node: ExportedLayer, features: str, corners: str, axis: int) -> tuple[str, str]:
    """First and past-the-end cell (R, group) of each bin of RoIs in whole pixels, limited to the map."""
    group, scale = node.layer.group_size, node.layer.spatial_scale
    start, end = _side(graph, corners, axis)
    start, end = graph.times(start, scale), graph.times(graph.plus(end, 1), scale)
    length = graph.add("Max", graph.add("Sub", end, start), graph.constant(0.1))
    each = graph.add("Div", length, graph.constant(group))
    size = _extent(graph, features, 3 - axis)
    edges = (graph.add("Add", graph.add("Mul", each, graph.constant(range(i, group + i))), start) for i in (0, 1))
    first, last = (_within(graph, graph.add(how, edge), size) for how, edge in zip(("Floor", "Ceil"), edges))
    return first, last


def _down(graph: GraphBuilder, values: str) -> str:
    """Values (R, PH) as (R, PH, 1)."""
    return graph.add("Unsqueeze", values, graph.integers(2))


def _across(graph: GraphBuilder, values: str) -> str:
    """Values (R, PW) as (R, 1, PW)."""
    return graph.add("Unsqueeze", values, graph.integers(1))


def _rows(graph: GraphBuilder, node: ExportedLayer, rois: str) -> str:
    """RoIs as (R, 5), whatever the shape of their blob."""
    return rois if len(node.bottoms[1]) == 2 else graph.add("Reshape", rois, graph.integers(-1, 5))


def _image(graph: GraphBuilder, rois: str) -> str:
    """The number of each RoI's image, integers (R, 1)."""
    return graph.cast(graph.part(rois, 1, 0, 1), TensorProto.INT64)


def _rounded(graph: GraphBuilder, values: str) -> str:
    """Rounded half away from zero, where ONNX's Round goes to the even number."""
    size = graph.add("Abs", values)
    whole = graph.add("Floor", size)
    up = graph.add("GreaterOrEqual", graph.add("Sub", size, whole), graph.constant(0.5))
    rounded = graph.add("Add", whole, graph.cast(up, TensorProto.FLOAT))
    return graph.add("Mul", graph.add("Sign", values), rounded)


def _side(graph: GraphBuilder, corners: str, axis: int) -> tuple[str, str]:
    """Near and far coordinates (R, 1) of corners (x1, y1, x2, y2); `axis` is 0 for x, 1 for y."""
    return graph.part(corners, 1, axis, axis + 1), graph.part(corners, 1, axis + 2, axis + 3)


def _within(graph: GraphBuilder, edges: str, size: str) -> str:
    """Cells limited to the map, as integers."""
    limited = graph.add("Min", graph.add("Max", edges, graph.constant(0)), size)
    return graph.cast(limited, TensorProto.INT64)


def _extent(graph: GraphBuilder, features: str, axis: int) -> str:
    """The size of the features along an axis as a float (1,)."""
    return graph.cast(graph.size(features, axis), TensorProto.FLOAT)
