"""Non-maximum suppression by ONNX's operator, with the thresholds of each of Caffe's layers."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from caffe_bridge.convert.onnx_export.builder import GraphBuilder


def suppress(
    graph: GraphBuilder,
    boxes: str,
    scores: str,
    threshold: float,
    most: str,
    above: float | None = None,
    inclusive: bool = False,
    centred: bool = False,
    positive: bool = False,
) -> str:
    """Which boxes survive greedy suppression within their group: rows (group, 0, position), best first in each group.

    The operator measures widths as x2 - x1: inclusive corners must have been moved out by one. Boxes must have an area:
    programs differ over others, and over corners in the wrong order.

    Args:
        boxes: (G, K, 4), best first in each group.
        scores: (G, 1, K).
        threshold: overlap above which a box is dropped.
        most: the survivors of a group at most, an integer tensor (1,).
        above: boxes of this score and below may be left out.
        inclusive: drop at an overlap of exactly the threshold, too.
        centred: boxes are (centre x, centre y, width, height), not corners.
        positive: all scores are above 0; then boxes may come in any order.
    """
    limit = _highest_kept(threshold, inclusive)
    if limit < 0:  # even boxes apart from each other overlap by 0, which is too much
        most = graph.add("Min", most, graph.integers(1))
    overlap = graph.constant([min(max(limit, 0.0), 1.0)])
    how = {"center_point_box": int(centred)}
    if graph.target == "opencv5" and not positive:  # it drops scores of 0 and below
        return graph.add("NonMaxSuppression", boxes, _ranks(graph, scores), most, overlap, **how)
    least = [] if above is None else [graph.constant([above])]
    return graph.add("NonMaxSuppression", boxes, scores, most, overlap, *least, **how)


def _ranks(graph: GraphBuilder, scores: str) -> str:
    """K, K - 1, ..., 1 in place of sorted scores (G, 1, K)."""
    zero, count = graph.constant(0, np.int64), graph.add("Squeeze", graph.size(scores, 2))
    ranks = graph.add("Range", count, zero, graph.constant(-1, np.int64))
    return graph.add("Expand", graph.cast(ranks, TensorProto.FLOAT), graph.add("Shape", scores))


def _highest_kept(threshold: float, inclusive: bool) -> float:
    """The highest overlap in single precision that does not suppress."""
    rounded = np.float32(threshold)
    if inclusive and rounded >= threshold:
        return float(np.nextafter(rounded, np.float32(-np.inf)))
    return float(rounded)


def column(graph: GraphBuilder, rows: str, number: int) -> str:
    """A column of rows (n, k), as (n,)."""
    return graph.add("Gather", rows, graph.constant(number, np.int64), axis=1)
