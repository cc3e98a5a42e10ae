"""Non-maximum suppression by ONNX's operator, with the thresholds of each of Caffe's layers."""

from __future__ import annotations

import numpy as np

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
) -> str:
    """Which boxes survive greedy suppression within their group: rows (group, 0, position), best first in each group.

    The operator measures widths as x2 - x1: inclusive corners must have been moved out by one. Equal scores keep
    their order. Boxes without an area overlap nothing.

    Args:
        boxes: (G, K, 4).
        scores: (G, 1, K).
        threshold: overlap above which a box is dropped.
        most: the survivors of a group at most, an integer tensor (1,).
        above: only boxes of higher scores count.
        inclusive: drop at an overlap of exactly the threshold, too.
        centred: boxes are (centre x, centre y, width, height), not corners.
    """
    limit = _highest_kept(threshold, inclusive)
    if limit < 0:  # even boxes apart from each other overlap by 0, which is too much
        most = graph.add("Min", most, graph.integers(1))
    inputs = [boxes, scores, most, graph.constant([min(max(limit, 0.0), 1.0)])]
    if above is not None:
        inputs.append(graph.constant([above]))
    return graph.add("NonMaxSuppression", *inputs, center_point_box=int(centred))


def _highest_kept(threshold: float, inclusive: bool) -> float:
    """The highest overlap in single precision that does not suppress."""
    rounded = np.float32(threshold)
    if inclusive and rounded >= threshold:
        return float(np.nextafter(rounded, np.float32(-np.inf)))
    return float(rounded)


def just_below(value: float) -> float:
    """The next number below in single precision: what exceeds it is at least `value`."""
    return float(np.nextafter(np.float32(value), np.float32(-np.inf)))


def column(graph: GraphBuilder, rows: str, number: int) -> str:
    """A column of rows (n, k), as (n,)."""
    return graph.add("Gather", rows, graph.constant(number, np.int64), axis=1)
