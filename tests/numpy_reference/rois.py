"""Layers of MNC's Caffe fork: RoI warping and mask resizing with their published gradients, mask pooling."""

from __future__ import annotations

import numpy as np

from numpy_reference.layers import Back


def _round_away(value: float) -> float:
    return float(np.trunc(value + np.copysign(0.5, value)))


class _Axis:
    """One axis of a RoI.

    Attributes:
        positions: where each sample lies, in cells; None outside the map.
        taps: for each sample the cells it reads, with their weights.
        back_taps: those among them to which the published backward pass gives something.
        length: the RoI's, one cell larger, as the backward pass takes it.
    """

    def __init__(self, start: float, end: float, pooled: int, size: int):
        self.start, self.length = start, max(end - start + 1, 1)
        step = max(end - start, 0) / pooled
        self.positions = [_placed(start + i * step, size) for i in range(pooled)]
        self.taps = [[] if position is None else _taps(position, size) for position in self.positions]
        back_step = self.length / pooled

        def gives_back(cell: int, sample: int) -> bool:
            first = np.floor((cell - start - 1) / back_step - 1)
            last = np.ceil((cell - start + 1) / back_step)
            return start <= cell <= end and first <= sample < last

        self.back_taps = [[tap for tap in taps if gives_back(tap[0], i)] for i, taps in enumerate(self.taps)]


def _placed(position: float, size: int) -> float | None:
    return min(max(position, 0.0), size - 1.0) if -0.5 <= position <= size - 0.5 else None


def _taps(position: float, size: int) -> list[tuple[int, float]]:
    low = int(position)
    if low >= size - 1:
        return [(size - 1, 1.0)]
    return [(low, 1 - (position - low)), (low + 1, position - low)]


def roi_warping(features: np.ndarray, rois: np.ndarray, pooled: int, scale: float) -> tuple[np.ndarray, Back]:
    """features [1, C, H, W], rois [R, 5] to [R, C, pooled, pooled]; backward gives those of features and rois."""
    maps = features[0]
    channels, height, width = maps.shape
    top = np.zeros((len(rois), channels, pooled, pooled))
    axes = []
    for roi in rois:
        x1, y1, x2, y2 = (_round_away(value * scale) for value in roi[1:])
        axes.append((_Axis(y1, y2, pooled, height), _Axis(x1, x2, pooled, width)))
    for number, (rows, columns) in enumerate(axes):
        for i, j in np.ndindex(pooled, pooled):
            for y, y_weight in rows.taps[i]:
                for x, x_weight in columns.taps[j]:
                    top[number, :, i, j] += y_weight * x_weight * maps[:, y, x]

    def back(grad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        to_features, to_rois = np.zeros_like(features), np.zeros_like(rois)
        for number, (rows, columns) in enumerate(axes):
            for i, j in np.ndindex(pooled, pooled):
                for y, y_weight in rows.back_taps[i]:
                    for x, x_weight in columns.back_taps[j]:
                        to_features[0, :, y, x] += y_weight * x_weight * grad[number, :, i, j]
                to_rois[number, 1:] += scale * _movement(maps, rows, columns, i, j, grad[number, :, i, j])
        return to_features, to_rois

    return top, back


def _movement(maps: np.ndarray, rows: _Axis, columns: _Axis, i: int, j: int, grad: np.ndarray) -> np.ndarray:
    """What one sample adds to the gradient of its RoI (x1, y1, x2, y2), in cells.

    A sample outside the map is taken for one at (-1, -1); one in the last row or column adds nothing.
    """
    y, x = rows.positions[i], columns.positions[j]
    if y is None or x is None:
        y = x = -1.0
    low_y, low_x = int(y), int(x)
    if low_y + 1 > maps.shape[1] - 1 or low_x + 1 > maps.shape[2] - 1:
        return np.zeros(4)
    a, b = y - low_y, x - low_x
    v00, v01 = _at(maps, low_y, low_x), _at(maps, low_y, low_x + 1)
    v10, v11 = _at(maps, low_y + 1, low_x), _at(maps, low_y + 1, low_x + 1)
    slope_x = ((1 - a) * (v01 - v00) + a * (v11 - v10)) @ grad
    slope_y = ((1 - b) * (v10 - v00) + b * (v11 - v01)) @ grad
    far_x, far_y = (x - columns.start) / columns.length, (y - rows.start) / rows.length
    return np.array([(1 - far_x) * slope_x, (1 - far_y) * slope_y, far_x * slope_x, far_y * slope_y])


def _at(maps: np.ndarray, y: int, x: int) -> np.ndarray:
    """Values of all channels at a cell that may lie before the map: then what lies there in memory, 0 before it."""
    if y >= 0 and x >= 0:
        return maps[:, y, x]
    place = np.arange(len(maps)) * maps[0].size + y * maps.shape[2] + x
    return np.where(place >= 0, maps.ravel()[place.clip(0)], 0)


def mask_resize(masks: np.ndarray, size: int) -> tuple[np.ndarray, Back]:
    """Square masks [N, 1, H, H] to size x size: output i is read at i * H / size. The published gradient."""
    old = masks.shape[2]
    ratio = old / size
    forward, backward = np.zeros((size, old)), np.zeros((size, old))
    for output in range(size):
        low = min(int(output * ratio), old - 1)
        part = output * ratio - low if low < old - 1 else 0.0
        forward[output, low] += 1 - part
        forward[output, min(low + 1, old - 1)] += part
        for cell in range(old):
            first = np.floor(cell / ratio)
            if first <= output <= first + 1 and abs(output * ratio - cell) < 1:
                backward[output, cell] = forward[output, cell]
    return forward @ masks @ forward.T, lambda grad: backward.T @ grad @ backward


def mask_pooling(features: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, Back]:
    """features [N, C, H, W] times masks [N, 1, H, W]."""
    return features * masks, lambda grad: (grad * masks, (grad * features).sum(1, keepdims=True))
