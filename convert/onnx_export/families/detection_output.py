"""The layers of SSD that make boxes: PriorBox and DetectionOutput; and the blob of detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from caffe_bridge import ssd_boxes
from caffe_bridge.convert.onnx_export.builder import GraphBuilder, array_of
from caffe_bridge.convert.onnx_export.registry import ExportedLayer, exports
from caffe_bridge.convert.onnx_export.sizes import Dim, fixed
from caffe_bridge.convert.onnx_export.suppression import column, suppress
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Shape


def detection_shapes(layer: Any, bottoms: list[Shape], rows: int) -> list[Shape]:
    """The shape of a blob of so many detections."""
    layer.top_shapes(bottoms)
    return [(1, 1, rows, 7)]


@exports("PriorBox")
def prior_box(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """A constant, since boxes depend on nothing but the sizes of the feature map and the image."""
    sizes = [fixed(dims[2:], "the sizes of feature map and image") for dims in node.bottoms]
    return [graph.constant(array_of(node.layer(*(torch.empty(1, 1, *size) for size in sizes))))]


@exports("DetectionOutput", shapes=detection_shapes)
def detection_output(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """TopK and NonMaxSuppression for each class, then TopK for each image; a Loop where `eta` is below 1."""
    layer, batch = node.layer, node.bottoms[0][0]
    (length,) = fixed(node.bottoms[2][2:3], "the number of priors")
    count = length // 4
    labels = [c for c in range(layer.classes) if c != layer.background]
    each = min(layer.top_k, count) if layer.top_k >= 0 else count
    if not each or not labels or layer.keep_top_k == 0:
        return [_blob(graph, _nothing(graph, batch))]
    scores = graph.add("Transpose", graph.reshape(bottoms[1], [batch, count, layer.classes]), perm=[0, 2, 1])
    scores = graph.add("Gather", scores, graph.integers(*labels), axis=1)
    scores, index = graph.add_many("TopK", [scores, graph.integers(each)], 2, axis=2)
    boxes = _candidates(graph, node, bottoms, labels, count, index)
    boxes = graph.add("Reshape", boxes, graph.integers(-1, each, 4))
    scores = graph.add("Reshape", scores, graph.integers(-1, 1, each))
    mask = (_survivors if layer.eta == 1 else _survivors_of_loop)(graph, layer, boxes, scores, each)
    if layer.keep_top_k > -1:
        mask = _best_of_images(graph, mask, scores, len(labels) * each, layer.keep_top_k)
    place = graph.add("Reshape", graph.add("NonZero", mask), graph.integers(-1))
    group = graph.add("Div", place, graph.integers(each))
    image = graph.add("Div", group, graph.integers(len(labels)))
    label = graph.add("Gather", graph.integers(*labels), graph.add("Mod", group, graph.integers(len(labels))), axis=0)
    score = graph.add("Gather", graph.add("Reshape", scores, graph.integers(-1)), place, axis=0)
    box = graph.add("Gather", graph.add("Reshape", boxes, graph.integers(-1, 4)), place, axis=0)
    return [detections(graph, image, label, score, box, batch)]


def detections(graph: GraphBuilder, image: str, label: str, score: str, box: str, batch: Dim) -> str:
    """The blob (1, 1, n, 7) of image, label, score (n,) and box (n, 4); where n is 0, a row for each image."""
    one = graph.integers(1)
    columns = [graph.cast(image, TensorProto.FLOAT), graph.cast(label, TensorProto.FLOAT), score]
    rows = graph.add("Concat", *(graph.add("Unsqueeze", column, one) for column in columns), box, axis=1)
    count = graph.size(rows, 0)
    some = graph.add("Greater", count, graph.integers(0))
    end = graph.add("Where", some, count, graph.shape([batch]))
    either = graph.add("Concat", rows, _nothing(graph, batch), axis=0)
    return _blob(graph, graph.add("Slice", either, graph.integers(0), end, graph.integers(0)))


def _nothing(graph: GraphBuilder, batch: Dim) -> str:
    """What stands for no detection at all, (batch, 7): the image's number and -1."""
    number = graph.add("Unsqueeze", graph.cast(graph.arange(batch), TensorProto.FLOAT), graph.integers(1))
    return graph.add("Pad", number, graph.integers(0, 0, 0, 6), graph.constant(-1))


def _blob(graph: GraphBuilder, rows: str) -> str:
    return graph.add("Unsqueeze", rows, graph.integers(0, 1))


def _candidates(
    graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str], labels: Sequence[int], count: int, index: str
) -> str:
    """The boxes (N, L, K, 4) of the priors that `index` (N, L, K) chooses for each image and class."""
    layer, batch = node.layer, node.bottoms[0][0]
    priors, variances = (
        graph.add("Reshape", graph.part(bottoms[2], 1, i, i + 1), graph.integers(-1, 4)) for i in (0, 1)
    )
    first = graph.add("Unsqueeze", graph.arange(batch), graph.integers(1, 2))
    if layer.share_location:
        codes = graph.reshape(bottoms[0], [batch, count, 4])
        first = graph.add("Mul", first, graph.integers(count))
    else:
        codes = graph.reshape(bottoms[0], [batch, count, layer.classes, 4])
        codes = graph.add("Gather", graph.add("Transpose", codes, perm=[0, 2, 1, 3]), graph.integers(*labels), axis=1)
        of_class = graph.constant(np.arange(len(labels))[None, :, None] * count, np.int64)
        first = graph.add("Add", graph.add("Mul", first, graph.integers(len(labels) * count)), of_class)
    boxes = graph.add("Reshape", _decode(graph, layer, codes, priors, variances), graph.integers(-1, 4))
    return graph.add("Gather", boxes, graph.add("Add", index, first), axis=0)


def _decode(graph: GraphBuilder, layer: Any, codes: str, priors: str, variances: str) -> str:
    """`caffe_bridge.ssd_boxes.decode` of codes (..., P, 4) for priors (P, 4)."""
    if not layer.in_target:
        codes = graph.add("Mul", codes, variances)
    if layer.code_type == ssd_boxes.CORNER:
        return graph.add("Add", priors, codes)
    near, far = graph.part(priors, 1, 0, 2), graph.part(priors, 1, 2)
    size = graph.add("Sub", far, near)
    if layer.code_type == ssd_boxes.CORNER_SIZE:
        return graph.add("Add", priors, graph.add("Mul", codes, graph.add("Concat", size, size, axis=1)))
    centre = graph.times(graph.add("Add", near, far), 0.5)
    centre = graph.add("Add", graph.add("Mul", graph.part(codes, -1, 0, 2), size), centre)
    half = graph.times(graph.add("Mul", graph.add("Exp", graph.part(codes, -1, 2)), size), 0.5)
    return graph.add("Concat", graph.add("Sub", centre, half), graph.add("Add", centre, half), axis=-1)


def _survivors(graph: GraphBuilder, layer: Any, boxes: str, scores: str, each: int) -> str:
    """1 where a box survives suppression in its class, else 0, (G * K,); boxes (G, K, 4), scores (G, 1, K)."""
    if layer.code_type != ssd_boxes.CENTER_SIZE:
        boxes = _with_areas(graph, boxes, each)
    selected = suppress(graph, boxes, scores, layer.nms_threshold, graph.integers(each), above=layer.threshold)
    place = graph.add("Mul", column(graph, selected, 0), graph.integers(each))
    place = graph.add("Add", place, column(graph, selected, 2))
    flat = graph.add("Reshape", scores, graph.integers(-1))
    mask = graph.add("ScatterElements", graph.filled(flat, 0), place, graph.filled(place, 1), axis=0)
    good = graph.add("Greater", flat, graph.constant(layer.threshold))
    return graph.add("Mul", mask, graph.cast(good, TensorProto.FLOAT))


def _with_areas(graph: GraphBuilder, boxes: str, each: int) -> str:
    """Boxes (G, K, 4), those without an area replaced by others far off, of which no two overlap."""
    empty = graph.add("LessOrEqual", graph.part(boxes, 2, 2), graph.part(boxes, 2, 0, 2))
    empty = graph.reduce("ReduceMax", graph.cast(empty, TensorProto.FLOAT), [2])
    near = np.full((each, 2), 1e5) + 2 * np.arange(each)[:, None]
    apart = graph.constant(np.concatenate([near, near + 1], 1)[None])
    return graph.add("Where", graph.add("Greater", empty, graph.constant(0)), apart, boxes)


def _survivors_of_loop(graph: GraphBuilder, layer: Any, boxes: str, scores: str, each: int) -> str:
    """As `_survivors`, a box of every class at a time, with a threshold that shrinks by `eta`."""
    if graph.target == "opencv5":
        raise LayerError(f"nms_param.eta ({layer.eta:g}) below 1 takes a Loop, which OpenCV 5 does not run")
    scores = graph.add("Squeeze", scores, graph.integers(1))
    good = graph.cast(graph.add("Greater", scores, graph.constant(layer.threshold)), TensorProto.FLOAT)
    areas = _areas(graph, boxes)
    numbers, one, zero = graph.arange(each), graph.constant(1), graph.constant(0)
    last = graph.integers(1)

    def step(number: str, states: Sequence[str]) -> Sequence[str]:
        mask, limit = states
        box, area, wanted = (
            graph.add("Unsqueeze", graph.add("Gather", values, number, axis=1), last) for values in (boxes, areas, good)
        )
        overlap = graph.add("Mul", _overlaps(graph, box, area, boxes, areas), mask)
        apart = graph.add("LessOrEqual", graph.reduce("ReduceMax", overlap, [1]), limit)
        kept = graph.add("And", apart, graph.add("Greater", wanted, zero))
        here = graph.add("And", kept, graph.add("Equal", numbers, number))
        shrinks = graph.add("And", kept, graph.add("Greater", limit, graph.constant(0.5)))
        return graph.add("Where", here, one, mask), graph.add("Where", shrinks, graph.times(limit, layer.eta), limit)

    limits = graph.filled(graph.part(scores, 1, 0, 1), layer.nms_threshold)
    states = [graph.filled(scores, 0), limits]
    mask, _ = graph.loop(graph.constant(each, np.int64), states, step)
    return graph.add("Reshape", mask, graph.integers(-1))


def _areas(graph: GraphBuilder, boxes: str) -> str:
    """Areas (..., K) of boxes (..., K, 4), 0 for those that end before they start."""
    size = graph.add("Sub", graph.part(boxes, -1, 2), graph.part(boxes, -1, 0, 2))
    size = graph.add("Max", size, graph.constant(0))
    return graph.reduce("ReduceProd", size, [2], keepdims=False)


def _overlaps(graph: GraphBuilder, box: str, area: str, boxes: str, areas: str) -> str:
    """Intersection over union (G, K) of a box (G, 1, 4) with others (G, K, 4); 0 where they only touch."""
    near = graph.add("Max", graph.part(box, 2, 0, 2), graph.part(boxes, 2, 0, 2))
    far = graph.add("Min", graph.part(box, 2, 2), graph.part(boxes, 2, 2))
    sides = graph.add("Max", graph.add("Sub", far, near), graph.constant(0))
    both = graph.reduce("ReduceProd", sides, [2], keepdims=False)
    union = graph.add("Sub", graph.add("Add", area, areas), both)
    some = graph.add("Greater", both, graph.constant(0))
    return graph.add("Where", some, graph.add("Div", both, union), graph.constant(0))


def _best_of_images(graph: GraphBuilder, mask: str, scores: str, each: int, most: int) -> str:
    """The mask (G * K,) without all but the `most` best of the `each` places of an image."""
    by_image = graph.integers(-1, each)
    mask, scores = (graph.add("Reshape", values, by_image) for values in (mask, scores))
    kept = graph.add("Greater", mask, graph.constant(0))
    ranked = graph.add("Where", kept, scores, graph.constant(-np.inf))
    _, best = graph.add_many("TopK", [ranked, graph.integers(min(most, each))], 2, axis=1)
    chosen = graph.add("ScatterElements", graph.filled(mask, 0), best, graph.filled(best, 1), axis=1)
    return graph.add("Reshape", graph.add("Mul", mask, chosen), graph.integers(-1))
