"""Pooling and SPP, with explicit padding at the end in place of Caffe's rounding up.

ONNX's ceil_mode is not used: it differs from Caffe where the stride exceeds the kernel. Padding by `stride - 1` more
cells and rounding down gives Caffe's number of windows for images of every size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from caffe_bridge.convert.onnx_export.builder import GraphBuilder
from caffe_bridge.convert.onnx_export.registry import ExportedLayer, exports
from caffe_bridge.convert.onnx_export.sizes import fixed
from caffe_bridge.layers.pooling import Windows
from caffe_bridge.layers.spp import pyramid_windows

_METHODS = ("MAX", "AVE", "STOCHASTIC")
_LOWEST = float(np.finfo(np.float32).min)


@exports("Pooling")
def pooling(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """MAX (with the mask as second top), AVE, and STOCHASTIC as it is in TEST."""
    layer, bottom = node.layer, bottoms[0]
    method = _METHODS[layer.method]
    if layer.whole_image and not layer.masked and method != "STOCHASTIC":
        return [graph.add("GlobalMaxPool" if method == "MAX" else "GlobalAveragePool", bottom)]
    windows: Windows = layer.windows
    if layer.whole_image:
        height, width = fixed(node.bottoms[0][2:], "the image's sizes")
        windows = windows._replace(kernel=(height, width))
    if not layer.masked:
        return [pool(graph, bottom, windows, method)]
    tops = (_masked_max_pool if _fits(windows) else _masked_wide_max_pool)(graph, bottom, windows)
    return [_without_last(graph, top, bottom, windows) for top in tops]


@exports("SPP")
def spp(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Poolings of several sizes, one after another; they follow from the image's size."""
    height, width = fixed(node.bottoms[0][2:], "the image's sizes")
    levels = [
        pool(graph, bottoms[0], w, node.layer.method) for w in pyramid_windows(node.layer.height, (height, width))
    ]
    if len(levels) == 1:
        return levels
    return [graph.add("Concat", *(graph.add("Flatten", level, axis=1) for level in levels), axis=1)]


def pool(graph: GraphBuilder, images: str, windows: Windows, method: str) -> str:
    """Pool images of any size in Caffe's windows; `method` is MAX, AVE or STOCHASTIC (its expectation)."""
    if method == "MAX":
        return _max_pool(graph, images, windows)
    if method == "AVE":
        return _average_pool(graph, images, windows)
    total = _average_pool(graph, images, windows)
    squares = _average_pool(graph, graph.add("Mul", images, images), windows)
    positive = graph.add("Greater", total, graph.constant(0))
    return graph.add("Where", positive, graph.add("Div", squares, total), graph.constant(0))


def _overhang(windows: Windows) -> list[int]:
    """Cells beyond the padding that make rounding down give as many windows as rounding up."""
    return [stride - 1 if windows.ceil else 0 for stride in windows.stride]


def _ends(windows: Windows) -> list[int]:
    """Cells to add at the end: the padding and the overhang."""
    return [pad + end for pad, end in zip(windows.pad, _overhang(windows))]


def _fits(windows: Windows) -> bool:
    """Whether onnxruntime takes the padding as an attribute: it must be smaller than the kernel."""
    return all(end < kernel for end, kernel in zip(_ends(windows), windows.kernel))


def _max_pool(graph: GraphBuilder, images: str, windows: Windows) -> str:
    padded, pads = images, [*windows.pad, *_ends(windows)]
    if not _fits(windows):
        padded, pads = graph.pad(images, windows.pad, _ends(windows), _LOWEST), [0] * 4
    top = graph.add("MaxPool", padded, kernel_shape=windows.kernel, strides=windows.stride, pads=pads)
    return _without_last(graph, top, images, windows)


def _masked_max_pool(graph: GraphBuilder, images: str, windows: Windows) -> tuple[str, str]:
    """Maxima and their positions in their plane; ONNX counts positions on through all planes."""
    geometry = {"kernel_shape": windows.kernel, "strides": windows.stride, "pads": [*windows.pad, *_ends(windows)]}
    top, index = graph.add_many("MaxPool", [images], 2, **geometry)
    plane = graph.add("Mul", graph.size(images, 2), graph.size(images, 3))
    return top, graph.add("Cast", graph.add("Mod", index, plane), to=TensorProto.FLOAT)


def _masked_wide_max_pool(graph: GraphBuilder, images: str, windows: Windows) -> tuple[str, str]:
    """The same where the padding is a step before, so that positions count it; -1 for a window without a cell."""
    padded = graph.pad(images, windows.pad, _ends(windows), _LOWEST)
    top, index = graph.add_many("MaxPool", [padded], 2, kernel_shape=windows.kernel, strides=windows.stride)
    plane = graph.add("Mul", graph.size(padded, 2), graph.size(padded, 3))
    place, columns = graph.add("Mod", index, plane), graph.size(padded, 3)
    y = graph.add("Sub", graph.add("Div", place, columns), graph.integers(windows.pad[0]))
    x = graph.add("Sub", graph.add("Mod", place, columns), graph.integers(windows.pad[1]))
    mask = graph.add("Add", graph.add("Mul", y, graph.size(images, 3)), x)
    for position, axis in ((y, 2), (x, 3)):
        within = graph.add("Less", position, graph.size(images, axis))
        inside = graph.add("And", within, graph.add("GreaterOrEqual", position, graph.integers(0)))
        mask = graph.add("Where", inside, mask, graph.integers(-1))
    return top, graph.add("Cast", mask, to=TensorProto.FLOAT)


def _average_pool(graph: GraphBuilder, images: str, windows: Windows) -> str:
    """Caffe's divisor counts the padding but not what overhangs it, so only that is left to the operator."""
    ends = _overhang(windows)
    geometry = {"kernel_shape": windows.kernel, "strides": windows.stride}
    padded = graph.pad(images, windows.pad, windows.pad, 0) if any(windows.pad) else images
    if all(end < kernel for end, kernel in zip(ends, windows.kernel)):
        top = graph.add("AveragePool", padded, **geometry, pads=[0, 0, *ends])
    else:
        ones = graph.filled(padded, 1)
        sums, cells = (graph.add("AveragePool", graph.pad(x, (0, 0), ends, 0), **geometry) for x in (padded, ones))
        some = graph.constant(np.finfo(np.float32).tiny)
        top = graph.add("Div", sums, graph.add("Max", cells, some))
    return _without_last(graph, top, images, windows)


def _without_last(graph: GraphBuilder, top: str, images: str, windows: Windows) -> str:
    """Drop a last window that starts beyond the image, which Caffe does where there is padding."""
    geometry = zip(windows.pad, windows.kernel, windows.stride, _overhang(windows))
    if not any(windows.pad) or all(pad + end < kernel for pad, kernel, stride, end in geometry):
        return top
    image = graph.add("Shape", images, start=2, end=4)
    room = graph.add(
        "Add", image, graph.integers(*(pad + stride - 1 for pad, stride in zip(windows.pad, windows.stride)))
    )
    count = graph.add("Div", room, graph.integers(*windows.stride))
    return graph.add("Slice", top, graph.integers(0, 0), count, graph.integers(2, 3))
