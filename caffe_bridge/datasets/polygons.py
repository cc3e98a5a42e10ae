"""Masks from polygons, pixel for pixel as COCO's own tools draw them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_bridge.errors import CaffeError

_SCALE = 5  # steps per pixel along an edge
_MAX_STEPS = 1 << 21


def fill(polygon: Sequence[float], height: int, width: int) -> np.ndarray:
    """The mask, bool [height, width], of a polygon (x0, y0, x1, y1, ...) in image pixels, pixel corners at integers.

    Edges are walked in fifths of a pixel. Wherever the walk crosses the middle of a column of pixels, the pixels of
    that column from there downwards change sides.

    Raises:
        CaffeError: fewer than three corners, an odd number of coordinates, or ones that are absurdly far away.
    """
    corners = np.asarray(polygon, np.float64)
    if corners.ndim != 1 or len(corners) % 2 or len(corners) < 6:
        raise CaffeError(f"a polygon is a list of at least three corners x, y, not {len(corners)} numbers")
    if not (np.abs(corners) < 1 << 20).all():
        raise CaffeError("a polygon has a corner a million pixels away, or that is no number")
    points = np.trunc(_SCALE * corners.reshape(-1, 2) + 0.5).astype(np.int64)
    x, y = _outline(points)
    crossing = np.flatnonzero(x[1:] != x[:-1])
    column = (np.minimum(x[crossing], x[crossing + 1]) + 0.5) / _SCALE - 0.5
    row = (np.minimum(y[crossing], y[crossing + 1]) + 0.5) / _SCALE - 0.5
    middle = (column == np.floor(column)) & (column >= 0) & (column <= width - 1)
    start = column[middle].astype(np.int64) * height + np.ceil(row[middle].clip(0, height)).astype(np.int64)
    changes = np.bincount(start, minlength=height * width + 1)[: height * width]
    return (np.cumsum(changes) % 2 == 1).reshape(width, height).T


def _outline(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every step of the closed outline through integer points [N, 2], corners twice."""
    ends = np.roll(points, -1, axis=0)
    steps = np.abs(ends - points).max(1)
    if steps.sum() > _MAX_STEPS:
        raise CaffeError(f"a polygon has an outline of {steps.sum() // _SCALE} pixels")
    edge = np.repeat(np.arange(len(points)), steps + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - (steps + 1), steps + 1)
    walk = points[edge], ends[edge], steps[edge], step
    return _along(*walk, axis=0), _along(*walk, axis=1)


def _along(begin: np.ndarray, end: np.ndarray, steps: np.ndarray, step: np.ndarray, axis: int) -> np.ndarray:
    """One coordinate of step number `step` on an edge: exact on its long axis, rounded on the other.

    An edge is always walked towards rising coordinates of its long axis, so that it gives the same points both ways.
    """
    delta = end - begin
    flat = np.abs(delta[:, 0]) >= np.abs(delta[:, 1])
    long = np.where(flat, delta[:, 0], delta[:, 1])
    back = long < 0
    first = np.where(back, end[:, axis], begin[:, axis])
    position = np.where(back, steps - step, step)
    is_long = flat == (axis == 0)
    slope = np.where(back, -1, 1) * delta[:, axis] / np.maximum(steps, 1)
    return np.where(is_long, first + position, np.trunc(first + slope * position + 0.5).astype(np.int64))
