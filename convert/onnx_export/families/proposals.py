"""Region proposal layers and MNC's stage bridge: boxes made from regression outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from caffe_bridge.config import cfg
from caffe_bridge.convert.onnx_export.builder import GraphBuilder
from caffe_bridge.convert.onnx_export.registry import ExportedLayer, exports
from caffe_bridge.convert.onnx_export.suppression import column, suppress
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Shape
from caffe_bridge.layers.proposal import check_shapes

MNC = "pylayer.proposal_layer.ProposalLayer"
PY_FASTER_RCNN = "rpn.proposal_layer.ProposalLayer"


def _check_image_info(info: Shape) -> None:
    if len(info) != 2 or info[0] != 1 or info[1] < 3:
        raise LayerError(f"takes im_info of one image, (1, 3), not {info}")


def _mnc_shapes(layer: Any, bottoms: list[Shape], rows: int) -> list[Shape]:
    check_shapes(len(layer.anchors), bottoms[0], bottoms[1])
    _check_image_info(bottoms[2])
    shapes: list[Shape] = [(rows, 5), (1, rows)]
    return shapes[: len(layer.param.top)]


def _faster_rcnn_shapes(layer: Any, bottoms: list[Shape], rows: int) -> list[Shape]:
    _mnc_shapes(layer, bottoms, rows)
    shapes: list[Shape] = [(rows, 5), (rows, 1)]
    return shapes[: len(layer.param.top)]


def _proposal_shapes(layer: Any, bottoms: list[Shape], rows: int) -> list[Shape]:
    return [(rows, *shape[1:]) for shape in layer.top_shapes(bottoms)]


def _bridge_shapes(layer: Any, bottoms: list[Shape], rows: int) -> list[Shape]:
    rois, outputs, scores, info = bottoms
    if len(scores) != 2 or rois != (scores[0], 5) or outputs != (scores[0], 4 * scores[1]):
        raise LayerError(f"RoIs {rois}, regression outputs {outputs} and scores {scores} do not fit")
    _check_image_info(info)
    return [rois]


@exports(MNC, shapes=_mnc_shapes)
def mnc_proposals(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Decoding, clipping, NonMaxSuppression with corners moved by one, and the anchors' numbers; one image."""
    rois, _, index = _propose(graph, node, bottoms)
    numbers = graph.cast(graph.add("Unsqueeze", index, graph.integers(0)), TensorProto.FLOAT)
    return [rois, numbers][: len(node.tops)]


@exports(PY_FASTER_RCNN, shapes=_faster_rcnn_shapes)
def faster_rcnn_proposals(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Decoding, clipping, NonMaxSuppression with corners moved by one, and the scores; one image."""
    rois, scores, index = _propose(graph, node, bottoms)
    chosen = graph.add("Unsqueeze", graph.add("Gather", scores, index, axis=0), graph.integers(1))
    return [rois, chosen][: len(node.tops)]


def _propose(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> tuple[str, str, str]:
    """The RoIs (n, 5), all scores (N,) and the numbers (n,) of those chosen, by the settings of `cfg` now."""
    layer, settings = node.layer, cfg[node.layer.phase]
    boxes, scores, info = _candidates(graph, node, bottoms, np.asarray(layer.anchors, np.float32))
    scale = graph.part(info, 0, 2, 3)
    least = graph.times(scale, settings.RPN_MIN_SIZE)
    large = graph.add("GreaterOrEqual", graph.reduce("ReduceMin", _sizes(graph, boxes), [1], keepdims=False), least)
    # Where no box is large enough, the one with the highest score is kept.
    count = graph.add("ReduceSum", graph.cast(large, TensorProto.INT64), graph.integers(0), keepdims=1)
    counts = graph.add("Or", large, graph.add("Equal", count, graph.integers(0)))
    ranked = graph.add("Where", counts, scores, graph.constant(-np.inf))
    count = graph.add("Max", count, graph.integers(1))
    if settings.RPN_PRE_NMS_TOP_N > 0:
        count = graph.add("Min", count, graph.integers(settings.RPN_PRE_NMS_TOP_N))
    most = graph.integers(settings.RPN_POST_NMS_TOP_N) if settings.RPN_POST_NMS_TOP_N > 0 else count
    index = _survivors(graph, boxes, ranked, count, most, settings.RPN_NMS_THRESH, not cfg.USE_GPU_NMS)
    return _rois(graph, graph.add("Gather", boxes, index, axis=0)), scores, index


@exports("Proposal", shapes=_proposal_shapes)
def proposal(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Decoding, clipping, NonMaxSuppression with corners moved by one; small boxes score 0; one image."""
    layer = node.layer
    boxes, scores, info = _candidates(graph, node, bottoms, layer.anchors.numpy())
    last = int(np.prod(node.shapes[2])) - 1
    scales = graph.add("Gather", info, graph.integers(last, 2), axis=0)
    large = graph.add("GreaterOrEqual", _sizes(graph, boxes), graph.times(scales, layer.min_size))
    scores = graph.add("Mul", scores, graph.reduce("ReduceMin", graph.cast(large, TensorProto.FLOAT), [1], False))
    count = graph.add("Min", graph.add("Shape", scores), graph.integers(layer.before))
    index = _survivors(graph, boxes, scores, count, graph.integers(layer.after), layer.threshold)
    chosen = graph.add("Gather", scores, index, axis=0)
    return [_rois(graph, graph.add("Gather", boxes, index, axis=0)), chosen][: len(node.tops)]


@exports("pylayer.stage_bridge_layer.StageBridgeLayer", shapes=_bridge_shapes)
def stage_bridge(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """RoIs moved by the outputs of their best class, and clipped."""
    rois, outputs, scores, info = bottoms
    (_, classes) = node.bottoms[2]
    best = graph.add("ArgMax", scores, axis=1, keepdims=0)
    by_class = graph.add("Reshape", outputs, graph.integers(-1, int(classes), 4))
    deltas = graph.add("GatherND", by_class, graph.add("Unsqueeze", best, graph.integers(1)), batch_dims=1)
    moved = _decode(graph, graph.part(rois, 1, 1), deltas)
    return [_rois(graph, _clipped(graph, moved, graph.add("Reshape", info, graph.integers(-1))))]


def _candidates(
    graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str], anchors: np.ndarray
) -> tuple[str, str, str]:
    """Every anchor's box, decoded and clipped (N, 4), its score (N,), and im_info as numbers in a row."""
    scores, deltas, info = bottoms
    foreground = graph.part(scores, 1, len(anchors))
    info = graph.add("Reshape", info, graph.integers(-1))
    boxes = _decode(graph, _shifted(graph, node, anchors), _per_anchor(graph, deltas, 4))
    flat = graph.add("Reshape", graph.add("Transpose", foreground, perm=[0, 2, 3, 1]), graph.integers(-1))
    return _clipped(graph, boxes, info), flat, info


def _per_anchor(graph: GraphBuilder, blob: str, columns: int) -> str:
    """A blob (1, A * columns, H, W) as rows (h, w, a) of `columns` values."""
    return graph.add("Reshape", graph.add("Transpose", blob, perm=[0, 2, 3, 1]), graph.integers(-1, columns))


def _shifted(graph: GraphBuilder, node: ExportedLayer, anchors: np.ndarray) -> str:
    """The anchors at every cell, (H * W * A, 4)."""
    height, width = node.bottoms[0][2:]
    moved = graph.constant(anchors)
    for count, direction, axes in ((width, [1, 0, 1, 0], (1, 2)), (height, [0, 1, 0, 1], (1, 2, 3))):
        steps = graph.cast(graph.arange(count), TensorProto.FLOAT)
        shifts = graph.add("Unsqueeze", graph.times(steps, node.layer.stride), graph.integers(*axes))
        moved = graph.add("Add", moved, graph.add("Mul", shifts, graph.constant(direction)))
    return graph.add("Reshape", moved, graph.integers(-1, 4))


def _sizes(graph: GraphBuilder, boxes: str) -> str:
    """Widths and heights (N, 2) of boxes with inclusive corners."""
    return graph.plus(graph.add("Sub", graph.part(boxes, 1, 2), graph.part(boxes, 1, 0, 2)), 1)


def _decode(graph: GraphBuilder, boxes: str, deltas: str) -> str:
    """`caffe_bridge.boxes.decode` of boxes and deltas (N, 4)."""
    size = _sizes(graph, boxes)
    centre = graph.add("Add", graph.part(boxes, 1, 0, 2), graph.times(size, 0.5))
    centre = graph.add("Add", graph.add("Mul", graph.part(deltas, 1, 0, 2), size), centre)
    half = graph.times(graph.add("Mul", graph.add("Exp", graph.part(deltas, 1, 2)), size), 0.5)
    return graph.add("Concat", graph.add("Sub", centre, half), graph.add("Add", centre, half), axis=1)


def _clipped(graph: GraphBuilder, boxes: str, info: str) -> str:
    """Boxes within the image of which `info` holds height and width."""
    size = graph.add("Gather", info, graph.integers(1, 0, 1, 0), axis=0)
    limits = graph.add("Max", graph.plus(size, -1), graph.constant(0))
    return graph.add("Min", graph.add("Max", boxes, graph.constant(0)), limits)


def _survivors(
    graph: GraphBuilder, boxes: str, scores: str, before: str, most: str, threshold: float, inclusive: bool = False
) -> str:
    """Numbers of the boxes that survive suppression among the `before` best, best first, `most` at most."""
    values, order = graph.add_many("TopK", [scores, before], 2, axis=0)
    grown = graph.add("Add", graph.add("Gather", boxes, order, axis=0), graph.constant([0, 0, 1, 1]))
    group = graph.add("Unsqueeze", grown, graph.integers(0))
    ranks = graph.add("Unsqueeze", values, graph.integers(0, 1))
    selected = suppress(graph, group, ranks, threshold, most, inclusive=inclusive)
    return graph.add("Gather", order, column(graph, selected, 2), axis=0)


def _rois(graph: GraphBuilder, boxes: str) -> str:
    """Boxes (n, 4) with a column of zeros, the image's number, before them."""
    return graph.add("Pad", boxes, graph.integers(0, 1, 0, 0), graph.constant(0))
