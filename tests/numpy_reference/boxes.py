"""Boxes (x1, y1, x2, y2) with inclusive corners, and instance masks placed in them."""

from __future__ import annotations

import numpy as np


def anchors(ratios: list[float], scales: list[float], base: int = 16) -> np.ndarray:
    """Anchors around the first cell, ratio (height / width) by ratio."""
    found = []
    for ratio in ratios:
        width = np.round(np.sqrt(base * base / ratio))
        height = np.round(width * ratio)
        for scale in scales:
            x, y = (width * scale - 1) / 2, (height * scale - 1) / 2
            centre = (base - 1) / 2
            found.append([centre - x, centre - y, centre + x, centre + y])
    return np.array(found)


def anchors_of_map(cell: np.ndarray, height: int, width: int, stride: float) -> np.ndarray:
    """All anchors of a feature map, ordered by row, column, anchor."""
    return np.array(
        [box + stride * np.array([x, y, x, y]) for y in range(height) for x in range(width) for box in cell]
    )


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (areas[0] + areas[1] - width * height)


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([[overlap(one, other) for other in b] for one in a])


def encode(boxes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    size, target_size = boxes[:, 2:] - boxes[:, :2] + 1, targets[:, 2:] - targets[:, :2] + 1
    shift = (targets[:, :2] + 0.5 * target_size) - (boxes[:, :2] + 0.5 * size)
    return np.hstack([shift / size, np.log(target_size / size)])


def decode(boxes: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """The far corner lacks the - 1 that would undo `encode`."""
    size = boxes[:, 2:] - boxes[:, :2] + 1
    centre = boxes[:, :2] + 0.5 * size + deltas[:, :2] * size
    half = 0.5 * np.exp(deltas[:, 2:]) * size
    return np.hstack([centre - half, centre + half])


def clip(boxes: np.ndarray, height: float, width: float) -> np.ndarray:
    return np.clip(boxes, 0, [width - 1, height - 1, width - 1, height - 1])


def inside(boxes: np.ndarray, height: float, width: float) -> np.ndarray:
    return (boxes[:, :2] >= 0).all(1) & (boxes[:, 2:] <= [width - 1, height - 1]).all(1)


def suppress(boxes: np.ndarray, threshold: float) -> list[int]:
    """Rows that no earlier kept row overlaps by more than the threshold."""
    kept: list[int] = []
    for row, box in enumerate(boxes):
        if all(overlap(boxes[other], box) <= threshold for other in kept):
            kept.append(row)
    return kept


def resize(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """cv2.resize with INTER_LINEAR: pixel centres aligned, the border repeated."""
    for axis, count in enumerate((height, width)):
        last = mask.shape[axis] - 1
        position = ((np.arange(count) + 0.5) * (mask.shape[axis] / count) - 0.5).astype(np.float32)
        low = np.floor(position).astype(int)
        part = np.where((low < 0) | (low >= last), 0, position - low)
        low = low.clip(0, last)
        part = part.reshape([-1, 1] if axis == 0 else [1, -1])
        mask = mask.take(low, axis) * (1 - part) + mask.take(np.minimum(low + 1, last), axis) * part
    return mask


def seen_mask(box: np.ndarray, mask: np.ndarray, mask_box: np.ndarray, size: int, threshold: float) -> np.ndarray:
    """What a box sees of a mask in another box, as a mask of size x size of 0 and 1; boxes are in whole pixels."""
    x1, y1, x2, y2 = box
    seen = np.zeros((y2 - y1 + 1, x2 - x1 + 1))
    left, top = max(x1, mask_box[0]), max(y1, mask_box[1])
    right, bottom = min(x2, mask_box[2]) + 1, min(y2, mask_box[3]) + 1
    if left < right and top < bottom:
        part = mask[top - mask_box[1] : bottom - mask_box[1], left - mask_box[0] : right - mask_box[0]]
        seen[top - y1 : top - y1 + part.shape[0], left - x1 : left - x1 + part.shape[1]] = part
    return (resize(seen, size, size) >= threshold).astype(float)


def mask_overlap(
    predicted: np.ndarray, box: np.ndarray, mask: np.ndarray, mask_box: np.ndarray, threshold: float
) -> float:
    """Intersection over union of a predicted mask, resized to its box, with a true one; boxes are in whole pixels."""
    size = max(box[3], mask_box[3]) + 1, max(box[2], mask_box[2]) + 1
    canvas = np.zeros((2, *size), bool)
    canvas[0, box[1] : box[3] + 1, box[0] : box[2] + 1] = (
        resize(predicted, box[3] - box[1] + 1, box[2] - box[0] + 1) >= threshold
    )
    canvas[1, mask_box[1] : mask_box[1] + mask.shape[0], mask_box[0] : mask_box[0] + mask.shape[1]] = mask[
        : size[0] - mask_box[1], : size[1] - mask_box[0]
    ]
    return canvas.all(0).sum() / max(canvas.any(0).sum(), 1)
