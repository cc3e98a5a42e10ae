"""Box arithmetic of Faster R-CNN and MNC, on NumPy arrays or tensors.

A box is (x1, y1, x2, y2) in pixels with inclusive corners, so its width is x2 - x1 + 1. Functions give back the kind
they are given and keep to its device; tensors are differentiable. `image_size` is (height, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)


def _library(array: Any) -> Any:
    return torch if isinstance(array, torch.Tensor) else np


def _as_type(array: Array, dtype: Any) -> Array:
    return array.to(dtype) if isinstance(array, torch.Tensor) else array.astype(dtype, copy=False)


def _contiguous(array: Array) -> Array:
    """A packed copy where needed: torch's vectorised functions are several times slower on strided rows."""
    return array.contiguous() if isinstance(array, torch.Tensor) else array


def _rows(condition: Array) -> Array:
    """Row number of each true element, in row-major order."""
    return condition.nonzero()[:, 0] if isinstance(condition, torch.Tensor) else condition.nonzero()[0]


def _centres_and_sizes(boxes: Array) -> tuple[Array, Array]:
    size = boxes[..., 2:] - boxes[..., :2] + 1.0
    return boxes[..., :2] + 0.5 * size, size


def anchors(
    base_size: int = 16, ratios: Sequence[float] = (0.5, 1, 2), scales: Sequence[float] = (8, 16, 32)
) -> np.ndarray:
    """Anchors around the cell (0, 0), float64 [len(ratios) * len(scales), 4]; scales vary fastest.

    Ratios are height / width. Sides are rounded half to even before scaling. Ratios that are all integers divide the
    area without remainder, as they did under Python 2 (R-CNN's `generate_anchors`).
    """
    ratio = np.asarray(ratios)
    area = base_size * base_size
    width = np.round(np.sqrt(area // ratio if ratio.dtype.kind == "i" else area / ratio))
    sides = np.stack([width, np.round(width * ratio)], axis=1)
    half = 0.5 * ((sides[:, None] * np.asarray(scales, np.float64)[:, None]).reshape(-1, 2) - 1)
    centre = 0.5 * (base_size - 1)
    return np.concatenate([centre - half, centre + half], axis=1)


def shifted_anchors(anchors: Array, height: int, width: int, stride: float) -> Array:
    """The anchors [A, 4] moved to every cell of a feature map, [height * width * A, 4].

    Row (h * width + w) * A + a is anchor a moved by `stride` pixels per cell.
    """
    if isinstance(anchors, torch.Tensor):
        x, y = (torch.arange(n, device=anchors.device, dtype=anchors.dtype) * stride for n in (width, height))
        axis = torch.tensor([1.0, 0.0, 1.0, 0.0], device=anchors.device, dtype=anchors.dtype)
    else:
        x, y = (np.arange(n, dtype=np.float64) * stride for n in (width, height))
        axis = np.array([1.0, 0.0, 1.0, 0.0])
    shifts = x[:, None, None] * axis + y[:, None, None, None] * (1 - axis)
    return (anchors + shifts).reshape(-1, 4)


def overlaps(a: Array, b: Array) -> Array:
    """Intersection over union of every box of `a` [N, 4] with every box of `b` [K, 4]: [N, K], in float64."""
    xp = _library(a)
    a, b = _as_type(a, xp.float64), _as_type(b, xp.float64)
    low = xp.maximum(a[:, None, :2], b[None, :, :2])
    high = xp.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = xp.clip(high - low + 1, 0, None)
    intersection = sides[..., 0] * sides[..., 1]
    area_a, area_b = ((box[:, 2] - box[:, 0] + 1) * (box[:, 3] - box[:, 1] + 1) for box in (a, b))
    union = area_a[:, None] + area_b - intersection
    return xp.where(intersection > 0, intersection / xp.where(intersection > 0, union, 1.0), 0.0)


def encode(boxes: Array, targets: Array) -> Array:
    """Regression targets (dx, dy, dw, dh) [N, 4] that move `boxes` [N, 4] onto `targets` [N, 4].

    Centre offsets in units of the box's size and logarithms of the size ratios (R-CNN, appendix C).
    """
    xp = _library(boxes)
    centre, size = _centres_and_sizes(boxes)
    target_centre, target_size = _centres_and_sizes(targets)
    return xp.concatenate([(target_centre - centre) / size, xp.log(target_size / size)], axis=1)


def decode(boxes: Array, deltas: Array) -> Array:
    """Apply regression outputs [N, 4K] to boxes [N, 4]: [N, 4K] in the type of `deltas`.

    As published, the far corner is centre + size / 2 without the - 1 that would make it inclusive, so decoding what
    `encode` gave ends one pixel further right and down than the target.
    """
    xp = _library(deltas)
    groups = deltas.reshape(len(deltas), deltas.shape[1] // 4, 4)
    centre, size = _centres_and_sizes(_as_type(boxes, deltas.dtype)[:, None])
    centre = groups[..., :2] * size + centre
    half = 0.5 * (xp.exp(_contiguous(groups[..., 2:])) * size)
    return xp.concatenate([centre - half, centre + half], axis=2).reshape(deltas.shape)


def inside(boxes: Array, image_size: Sequence[float]) -> Array:
    """Whether each box of [N, 4K] lies in the image, corners on its last pixel included: booleans [N, K]."""
    height, width = (float(size) for size in image_size)
    x1, y1, x2, y2 = (boxes[:, side::4] for side in range(4))
    return (x1 >= 0) & (y1 >= 0) & (x2 <= width - 1) & (y2 <= height - 1)


def clamp(boxes: Array, image_size: Sequence[float]) -> Array:
    """Boxes [N, 4K] with corners moved into the image: x to [0, width - 1], y to [0, height - 1]."""
    height, width = (float(size) for size in image_size)
    points = boxes.reshape(len(boxes), boxes.shape[1] // 2, 2)
    x, y = (_limited(points[..., axis], length) for axis, length in ((0, width), (1, height)))
    return _library(boxes).stack([x, y], axis=2).reshape(boxes.shape)


def _limited(values: Array, length: float) -> Array:
    return _library(values).clip(values, 0.0, max(length - 1, 0.0))


def clip(boxes: Array, image_size: Sequence[float]) -> tuple[Array, Array]:
    """Boxes [N, 4K] clipped to the image, and the numbers of the rows that lay inside before.

    A row appears once per group of four columns that was inside.
    """
    return clamp(boxes, image_size), _rows(inside(boxes, image_size))


def filter_small(boxes: Array, min_size: float) -> Array:
    """Numbers of the rows [N, 4] at least `min_size` pixels wide and high."""
    _, size = _centres_and_sizes(boxes)
    large: Any = size >= min_size
    return _rows(large.all(1))


def scale(boxes: Array, factor: float) -> Array:
    """Boxes [N, 4] with `factor` times their size around their centre.

    The far corner has no - 1 (as in `decode`): factor 1 moves it by one pixel.
    """
    centre, size = _centres_and_sizes(boxes)
    half = 0.5 * (size * factor)
    return _library(boxes).concatenate([centre - half, centre + half], axis=1)


def unmap(values: Array, count: int, rows: Array, fill: float = 0.0) -> Array:
    """An array of `count` rows in float32 that has `values` at `rows` and `fill` elsewhere."""
    if isinstance(values, torch.Tensor):
        full = values.new_full((count, *values.shape[1:]), fill, dtype=torch.float32)
    else:
        full = np.full((count, *values.shape[1:]), fill, np.float32)
    full[rows] = values
    return full
