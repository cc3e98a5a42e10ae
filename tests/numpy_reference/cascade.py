"""MNC's Python layers, with their published gradients and their draws from NumPy's global generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from numpy_reference import boxes as geometry
from numpy_reference.layers import Back


@dataclass
class Truth:
    """What is known of the image.

    Attributes:
        height, width, scale: of the network's input; scale is input pixels per pixel of the original image.
        boxes: [G, 5], x1, y1, x2, y2 in input pixels, class.
        masks: [G, h, w], 0 or 1 in pixels of the original image, each in the upper left corner.
        mask_sizes: [G, 2], height and width of each.
    """

    height: float
    width: float
    scale: float
    boxes: np.ndarray
    masks: np.ndarray
    mask_sizes: np.ndarray

    def original(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes in whole pixels of the original image."""
        return np.round(boxes / self.scale).astype(int)

    def mask(self, number: int) -> np.ndarray:
        height, width = self.mask_sizes[number].astype(int)
        return self.masks[number, :height, :width]


def _per_anchor(blob: np.ndarray, columns: int) -> np.ndarray:
    """[1, A * columns, H, W] as rows ordered by (h, w, anchor)."""
    return blob[0].transpose(1, 2, 0).reshape(-1, columns)


def _from_anchors(rows: np.ndarray, height: int, width: int) -> np.ndarray:
    return rows.reshape(height, width, -1).transpose(2, 0, 1)[None]


def proposal(
    scores: np.ndarray,
    deltas: np.ndarray,
    truth: Truth,
    anchors: np.ndarray,
    clip_base: float,
    settings: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray, Back]:
    """RoIs [n, 5] and the numbers of their anchors; backward gives the deltas' gradient."""
    height, width = deltas.shape[2:]
    rows = _per_anchor(deltas, 4)
    foreground = _per_anchor(scores[:, scores.shape[1] // 2 :], 1)[:, 0]
    decoded = geometry.decode(anchors, rows)
    clipped = geometry.clip(decoded, truth.height, truth.width)
    large = (clipped[:, 2:] - clipped[:, :2] + 1 >= settings["RPN_MIN_SIZE"] * truth.scale).all(1)
    order = [row for row in np.argsort(-foreground, kind="stable") if large[row]][: settings["RPN_PRE_NMS_TOP_N"]]
    kept = geometry.suppress(clipped[order], settings["RPN_NMS_THRESH"])[: settings["RPN_POST_NMS_TOP_N"]]
    index = np.array(order)[kept]

    def back(grad: np.ndarray) -> np.ndarray:
        near, far = grad[:, 1:3], grad[:, 3:5]
        size = anchors[index, 2:] - anchors[index, :2]  # without the + 1 of the forward pass
        values = np.hstack([(near + far) * size, 0.5 * (far - near) * np.exp(rows[index, 2:]) * size])
        whole = [geometry.inside(boxes, truth.height, truth.width) for boxes in (decoded[index], anchors[index])]
        values[~(whole[0] & whole[1])] = 0
        to_rows = np.zeros_like(rows)
        to_rows[index] = values.clip(-1 / clip_base, 1 / clip_base)
        return _from_anchors(to_rows, height, width)

    return np.hstack([np.zeros((len(index), 1)), clipped[index]]), index, back


def anchor_target(
    height: int,
    width: int,
    truth: Truth,
    anchors: np.ndarray,
    foreground: np.ndarray,
    background: np.ndarray,
    settings: dict[str, Any],
) -> tuple[np.ndarray, ...]:
    """Labels [1, 1, A * height, width], targets, inside and outside weights [1, 4A, height, width]."""
    within = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2:] < [truth.width, truth.height]).all(1)
    overlap = geometry.overlaps(anchors, truth.boxes[:, :4])
    best, highest = overlap.max(1), overlap[within].max(0)
    labels = np.full(len(anchors), -1)
    labels[within & (best < settings["RPN_NEGATIVE_OVERLAP"])] = 0
    labels[within & (overlap == highest).any(1)] = 1
    labels[within & (best >= settings["RPN_POSITIVE_OVERLAP"])] = 1
    most = int(settings["RPN_FG_FRACTION"] * settings["RPN_BATCHSIZE"])
    _drop(labels, 1, most)
    _drop(labels, 0, settings["RPN_BATCHSIZE"] - (labels == 1).sum())
    for label, numbers in ((0, background), (1, foreground)):
        labels[[number for number in numbers if within[number]]] = label
    targets = np.zeros((len(anchors), 4))
    targets[within] = geometry.encode(anchors[within], truth.boxes[overlap[within].argmax(1), :4])
    inside = np.repeat((labels == 1)[:, None], 4, 1).astype(float)
    outside = np.repeat((labels >= 0)[:, None], 4, 1) / (labels >= 0).sum()
    rows = (_from_anchors(values, height, width) for values in (targets, inside, outside))
    return _from_anchors(labels[:, None], height, width).reshape(1, 1, -1, width), *rows


def _drop(labels: np.ndarray, label: int, most: int) -> None:
    candidates = np.flatnonzero(labels == label)
    if len(candidates) > most:
        labels[np.random.choice(candidates, len(candidates) - most, replace=False)] = -1


def _targets(
    rois: np.ndarray, assigned: np.ndarray, foreground: int, truth: Truth, classes: int, settings: dict[str, Any]
) -> dict[str, np.ndarray]:
    """What RoIs [K, 5] are trained on, the first `foreground` of which are objects."""
    size, count = settings["MASK_SIZE"], len(rois)
    labels = truth.boxes[assigned, 4].copy()
    labels[foreground:] = 0
    deltas = geometry.encode(rois[:, 1:], truth.boxes[assigned, :4])
    deltas = (deltas - settings["BBOX_NORMALIZE_MEANS"]) / settings["BBOX_NORMALIZE_STDS"]
    targets, inside = np.zeros((count, 4 * classes)), np.zeros((count, 4 * classes))
    masks, weights = np.zeros((count, 1, size, size)), np.zeros((count, 1, size, size))
    description = np.full((count, 12), -1.0)
    seen, placed = truth.original(rois[:, 1:]), truth.original(truth.boxes[:, :4])
    for row in range(foreground):
        number, label = assigned[row], int(labels[row])
        targets[row, 4 * label : 4 * label + 4] = deltas[row]
        inside[row, 4 * label : 4 * label + 4] = 1
        mask = truth.mask(number)
        masks[row, 0] = geometry.seen_mask(seen[row], mask, placed[number], size, settings["BINARIZE_THRESH"])
        weights[row] = 1
        description[row] = [number, *mask.shape, label, *seen[row], *placed[number]]
    return {
        "labels": labels,
        "bbox_targets": targets,
        "bbox_inside_weights": inside,
        "mask_targets": masks,
        "mask_weight": weights,
        "mask_description": description,
    }


def _draw(overlap: np.ndarray, low: float, high: float, size: float) -> np.ndarray:
    candidates = np.flatnonzero((overlap >= low) & (overlap <= high))
    if not len(candidates):
        return candidates
    return np.random.choice(candidates, min(len(candidates), int(np.round(size))), replace=False)


def proposal_target(
    rois: np.ndarray, index: np.ndarray, truth: Truth, classes: int, settings: dict[str, Any]
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray, np.ndarray, Back]:
    """A sample of RoIs and ground truth [K, 5], its targets, the anchors that became foreground and background."""
    candidates = np.vstack([rois, np.insert(truth.boxes[:, :4], 0, 0, axis=1)])
    overlaps = geometry.overlaps(candidates[:, 1:], truth.boxes[:, :4])
    overlap, assigned = overlaps.max(1), overlaps.argmax(1)
    fg = np.unique(_draw(overlap, 0.5, 1.0, 0.3 * settings["BATCH_SIZE"]))
    rest = settings["BATCH_SIZE"] - len(fg)
    bg = np.unique(np.concatenate([_draw(overlap, 0.1, 0.5, 0.85 * rest), _draw(overlap, 0.0, 0.1, 0.15 * rest)]))
    keep = np.concatenate([fg, bg]).astype(int)
    sampled = candidates[keep]

    def back(grad: np.ndarray) -> np.ndarray:
        to_rois = np.zeros_like(rois)
        for row, source in enumerate(keep):
            if source < len(rois):
                to_rois[source] = grad[row]
        return to_rois

    targets = _targets(sampled, assigned[keep], len(fg), truth, classes, settings)
    return sampled, targets, index[fg[fg < len(rois)].astype(int)], index[bg.astype(int)], back


def stage_bridge(
    rois: np.ndarray,
    outputs: np.ndarray,
    scores: np.ndarray,
    truth: Truth,
    clip_base: float,
    settings: dict[str, Any],
) -> tuple[np.ndarray, dict[str, np.ndarray], Back]:
    """RoIs moved by their best class's outputs, and the ground truth [K, 5]; their targets.

    Backward gives the gradients of rois and outputs.
    """
    count, classes = scores.shape
    best = scores[:, 1:].argmax(1) + 1
    columns = [np.arange(4 * label, 4 * label + 4) for label in best]
    deltas = np.array([outputs[row, columns[row]] for row in range(count)])
    moved = geometry.decode(rois[:, 1:], deltas)
    whole = geometry.inside(moved, truth.height, truth.width)
    refined = geometry.clip(np.vstack([moved, truth.boxes[:, :4]]), truth.height, truth.width)
    overlaps = geometry.overlaps(refined, truth.boxes[:, :4])
    chosen = overlaps.max(1) >= 0.5
    keep = np.concatenate([np.flatnonzero(chosen), np.flatnonzero(~chosen)])
    tops = np.insert(refined[keep], 0, 0, axis=1)

    def back(grad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        to_rois, to_outputs = np.zeros_like(rois), np.zeros_like(outputs)
        for row, source in enumerate(keep):
            if source >= count:
                continue
            g1, g2, g3, g4 = grad[row, 1:]
            dx, dy, dw, dh = deltas[source]
            to_rois[source, 1:] = g1, g2, g3 * (dx + np.exp(dw)), g4 * (dy + np.exp(dh))
            if whole[source]:
                width, height = rois[source, 2] - rois[source, 0], rois[source, 3] - rois[source, 1]  # so published
                values = np.array([g1 * width, g2 * height, g3 * np.exp(dw) * width, g4 * np.exp(dh) * height])
                to_outputs[source, columns[source]] = values.clip(-1 / clip_base, 1 / clip_base)
        return to_rois, to_outputs

    targets = _targets(tops, overlaps.argmax(1)[keep], int(chosen.sum()), truth, classes, settings)
    return tops, targets, back


def mask_layer(
    predicted: np.ndarray, description: np.ndarray, truth: Truth, settings: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, Back]:
    """Masks [n, MASK_SIZE ** 2] as images, and the class each shows well enough, or 0."""
    size = settings["MASK_SIZE"]
    masks = predicted.reshape(-1, 1, size, size)
    labels = np.zeros(len(masks))
    for row, values in enumerate(description.astype(int)):
        if values[0] >= 0:
            overlap = geometry.mask_overlap(
                masks[row, 0], values[4:8], truth.mask(values[0]), values[8:], settings["BINARIZE_THRESH"]
            )
            labels[row] = values[3] if overlap >= 0.5 else 0

    def back(grad: np.ndarray) -> np.ndarray:
        return np.where(labels[:, None] > 0, grad.reshape(predicted.shape), 0)

    return masks, labels, back
