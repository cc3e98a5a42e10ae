"""Average precision of boxes and masks, as PASCAL VOC and MNC measure it.

Arguments are lists over images and concern one class. Boxes are (x1, y1, x2, y2) in original-image pixels with
inclusive corners; detections [n, 5] have the score last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from caffe_bridge import masks as mask_arithmetic
from caffe_bridge.boxes import overlaps
from caffe_bridge.config import cfg
from caffe_bridge.errors import CaffeError


@dataclass(frozen=True)
class Curve:
    """What is found of a class as the score falls.

    Attributes:
        recall, precision: float64 [n], of the n best detections that count.
        ap: average precision, 0 where there is nothing to find.
        instances: how many there are to find.
    """

    recall: np.ndarray
    precision: np.ndarray
    ap: float
    instances: int


def voc_ap(recall: np.ndarray, precision: np.ndarray, use_07_metric: bool = False) -> float:
    """Average precision of a curve, both [n] by falling score.

    The 2007 metric is the mean, over the recalls 0, 0.1, ... 1, of the best precision at that recall or more;
    otherwise it is the area under the curve made monotone from the right.
    """
    recall, precision = np.asarray(recall, np.float64), np.asarray(precision, np.float64)
    if use_07_metric:
        return float(sum(precision[recall >= level].max(initial=0.0) for level in np.arange(0.0, 1.1, 0.1)) / 11)
    steps = np.diff(recall, prepend=0.0)
    return float(steps @ np.maximum.accumulate(precision[::-1])[::-1]) if len(recall) else 0.0


def box_ap(
    detections: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    difficult: Sequence[np.ndarray],
    threshold: float = 0.5,
    use_07_metric: bool = False,
) -> float:
    """Average precision of detected boxes.

    By falling score, a detection is compared with the ground truth `boxes` [g, 4] of its image it overlaps most. Above
    (not at) `threshold` it is true if that box is still free, false if it was found before, and ignored if it is
    `difficult` (booleans [g]), in which case it is not missed either. Equal scores keep their order.

    The original passes detections through a text file with three decimals; round them to get its numbers.
    """
    return box_curve(detections, boxes, difficult, threshold, use_07_metric).ap


def box_curve(
    detections: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    difficult: Sequence[np.ndarray],
    threshold: float = 0.5,
    use_07_metric: bool = False,
) -> Curve:
    """The curve behind `box_ap`, which takes the same."""
    _check_lengths(detections=detections, boxes=boxes, difficult=difficult)
    outcomes = _Outcomes(detections)
    missing = 0
    for image, truth, skip in zip(outcomes.images, boxes, difficult):
        truth, skip = np.asarray(truth).reshape(-1, 4), np.asarray(skip, bool).reshape(-1)
        missing += int((~skip).sum())
        overlap = overlaps(outcomes.detections[image, :4], truth)
        outcomes.match(image, overlap, overlap > threshold, skip)
    return outcomes.curve(missing, use_07_metric)


def mask_ap(
    detections: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    gt_masks: Sequence[Sequence[np.ndarray]],
    threshold: float = 0.5,
) -> float:
    """Average precision (11 points) of detected instances, with the overlap of masks instead of boxes.

    `masks` [n, s, s] are binary and resized to the detections' boxes, rounded half to even; `gt_masks` [g] of any
    sizes fill the ground-truth `boxes` [g, 4]. By falling score, a detection is true if the instance of its image it
    overlaps most, by at least `threshold`, is still free, otherwise false. Equal scores keep their order (MNC's
    voc_eval_sds).
    """
    return mask_curves(detections, masks, boxes, gt_masks, [threshold])[0].ap


def mask_curves(
    detections: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    gt_masks: Sequence[Sequence[np.ndarray]],
    thresholds: Sequence[float],
) -> list[Curve]:
    """The curves behind `mask_ap`, which takes the same, one for each threshold."""
    _check_lengths(detections=detections, masks=masks, boxes=boxes, gt_masks=gt_masks)
    judged = [_Outcomes(detections) for _ in thresholds]
    rows = _Outcomes(detections)
    for image, found, truth_boxes, truth in zip(rows.images, masks, boxes, gt_masks):
        overlap = mask_overlaps(rows.detections[image], found, np.asarray(truth_boxes).reshape(-1, 4), truth)
        for outcomes, threshold in zip(judged, thresholds):
            outcomes.match(image, overlap, overlap >= threshold, np.zeros(len(truth), bool))
    instances = sum(len(truth) for truth in gt_masks)
    return [outcomes.curve(instances, use_07_metric=True) for outcomes in judged]


@dataclass(frozen=True)
class Recall:
    """How many objects proposals cover.

    Attributes:
        overlaps: float64 [G], of each object with the proposal it was given, rising.
        thresholds, recalls: float64 [t], and the share of objects covered by at least these overlaps.
        average: the mean of `recalls`; NaN, as they are, where there are no objects.
    """

    overlaps: np.ndarray
    thresholds: np.ndarray
    recalls: np.ndarray
    average: float


AREAS = {  # of objects, in pixels, ends included
    "all": (0, 10**10),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 10**10),
    "96-128": (96**2, 128**2),
    "128-256": (128**2, 256**2),
    "256-512": (256**2, 512**2),
    "512-inf": (512**2, 10**10),
}


def proposal_recall(
    proposals: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    area: str = "all",
    limit: int | None = None,
    thresholds: Sequence[float] | None = None,
) -> Recall:
    """Recall of the first `limit` proposals [n, 4] of each image.

    Proposals are given to the ground-truth `boxes` [g, 4] whose area is in one of AREAS, each to one: again and again,
    the pair with the largest overlap is matched. Thresholds are 0.5, 0.55 ... 0.95 unless given.
    Source: py-faster-rcnn, imdb.evaluate_recall.
    """
    _check_lengths(proposals=proposals, boxes=boxes)
    if area not in AREAS:
        raise CaffeError(f"no range of areas is called {area!r}; there are {', '.join(AREAS)}")
    low, high = AREAS[area]
    covered = []
    for candidates, truth in zip(proposals, boxes):
        truth = np.asarray(truth, np.float64).reshape(-1, 4)
        size = truth[:, 2:] - truth[:, :2] + 1
        truth = truth[(size.prod(1) >= low) & (size.prod(1) <= high)]
        covered.append(_greedy_overlaps(np.asarray(candidates).reshape(-1, 4)[:limit], truth))
    found = np.sort(np.concatenate([np.empty(0), *covered]))
    levels = np.arange(0.5, 0.95 + 1e-5, 0.05) if thresholds is None else np.asarray(thresholds, np.float64)
    recalls = (found >= levels[:, None]).mean(1) if len(found) else np.full(len(levels), np.nan)
    return Recall(found, levels, recalls, float(recalls.mean()))


def _greedy_overlaps(candidates: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The overlap of each ground truth with the candidate it is matched with, 0 where there are not enough."""
    found = np.zeros(len(truth))
    overlap = overlaps(candidates, truth)
    for number in range(min(overlap.shape)):
        # Of equal overlaps, that of the first ground truth.
        row = overlap.max(0).argmax()
        column = overlap[:, row].argmax()
        found[number] = overlap[column, row]
        overlap[column], overlap[:, row] = -1, -1
    return found


def _check_lengths(**lists: Sequence) -> None:
    if len({len(values) for values in lists.values()}) > 1:
        counts = ", ".join(f"{name} {len(values)}" for name, values in lists.items())
        raise CaffeError(f"every list has one entry per image: {counts}")


def mask_overlaps(
    detections: np.ndarray, masks: np.ndarray, gt_boxes: np.ndarray, gt_masks: Sequence[np.ndarray]
) -> np.ndarray:
    """Mask overlap of every detection with every ground truth of one image [n, g]; arguments as `mask_ap`'s of it."""
    if len(masks) != len(detections) or len(gt_boxes) != len(gt_masks):
        raise CaffeError(
            f"an image has {len(detections)} detections with {len(masks)} masks "
            f"and {len(gt_boxes)} ground-truth boxes with {len(gt_masks)} masks"
        )
    shape = len(detections), len(gt_masks)
    if 0 in shape:
        return np.zeros(shape)
    sizes = np.array([mask.shape for mask in gt_masks])
    padded = np.zeros((len(gt_masks), *sizes.max(0)), bool)
    for place, mask in zip(padded, gt_masks):
        place[: mask.shape[0], : mask.shape[1]] = mask
    detection, truth = (number.ravel() for number in np.indices(shape))
    overlap = mask_arithmetic.iou(
        torch.from_numpy(np.asarray(masks, np.float32))[detection],
        torch.from_numpy(np.round(detections[:, :4]).astype(np.int64))[detection],
        torch.from_numpy(padded),
        torch.from_numpy(truth),
        torch.from_numpy(sizes)[truth],
        torch.from_numpy(np.round(gt_boxes).astype(np.int64))[truth],
        cfg.BINARIZE_THRESH,
    )
    return overlap.numpy().reshape(shape)


class _Outcomes:
    """Whether each detection of all images is true, false or ignored."""

    def __init__(self, detections: Sequence[np.ndarray]):
        rows = [np.asarray(image, np.float64) for image in detections]
        for number, image in enumerate(rows):
            if image.size and (image.ndim != 2 or image.shape[1] != 5):
                raise CaffeError(f"detections are rows (x1, y1, x2, y2, score); image {number} has shape {image.shape}")
        rows = [image.reshape(-1, 5) for image in rows]
        ends = np.cumsum([len(image) for image in rows])
        self.images = [slice(end - len(image), end) for image, end in zip(rows, ends)]
        self.detections = np.concatenate([np.empty((0, 5)), *rows])
        self.true, self.false = np.zeros((2, len(self.detections)), bool)

    def match(self, image: slice, overlap: np.ndarray, enough: np.ndarray, skip: np.ndarray) -> None:
        """Judge the detections of one image by their overlaps [n, g] and whether these are `enough`."""
        free = np.ones(len(skip), bool)
        scores = self.detections[image, 4]
        for row in np.argsort(-scores, kind="stable"):
            best = overlap[row].argmax() if len(skip) else None
            if best is None or not enough[row, best]:
                self.false[image.start + row] = True
            elif not skip[best]:
                outcome = self.true if free[best] else self.false
                outcome[image.start + row] = True
                free[best] = False

    def curve(self, instances: int, use_07_metric: bool) -> Curve:
        """Of the detections judged, when there are `instances` to find."""
        order = np.argsort(-self.detections[:, 4], kind="stable")
        order = order[(self.true | self.false)[order]]
        true, false = self.true[order].cumsum(), self.false[order].cumsum()
        recall, precision = true / max(instances, 1), true / np.maximum(true + false, 1)
        return Curve(recall, precision, voc_ap(recall, precision, use_07_metric) if instances else 0.0, instances)
