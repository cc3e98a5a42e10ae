"""What CFM's mask proposals are trained on: their comparison with an image's instances, as the files hold it.

The arrays are those of `caffe_bridge.mask_proposals`. Source: MNC, tools/prepare_mcg_maskdb.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch

from caffe_bridge import boxes as box_arithmetic
from caffe_bridge import masks as mask_arithmetic

THRESHOLD = 0.4  # MNC's BINARIZE_THRESH

Arrays = dict[str, Any]


def for_testing(boxes: np.ndarray, masks: np.ndarray) -> Arrays:
    """The arrays of a test file, from boxes [n, 4] and masks bool [n, M, M]."""
    return {"masks": masks, "boxes": boxes.astype(np.float64)}


def for_training(
    boxes: np.ndarray,
    masks: np.ndarray,
    gt_boxes: np.ndarray,
    gt_masks: Sequence[np.ndarray],
    gt_classes: np.ndarray,
) -> Arrays:
    """The arrays of a training file.

    Args:
        boxes: int [n, 4], proposals in image pixels; n may be 0.
        masks: bool [n, M, M].
        gt_boxes: int [G, 4], G at least 1.
        gt_masks: G masks bool, each as large as its box.
        gt_classes: int [G], from 1.
    """
    size, truths = masks.shape[1], len(gt_boxes)
    gt_boxes = gt_boxes.astype(np.int64)
    own = [cv2.resize(mask.astype(np.float64), (size, size)) >= THRESHOLD for mask in gt_masks]
    boxes, masks = np.concatenate([gt_boxes, boxes.astype(np.int64)]), np.concatenate([own, masks])
    of_truths = box_arithmetic.overlaps(boxes, gt_boxes)
    overlap = of_truths.max(1)
    assigned = np.where(overlap > 0, of_truths.argmax(1), -1)
    return {
        "masks": masks,
        "boxes": boxes,
        "det_overlap": overlap[:, None],
        "seg_overlap": _mask_overlaps(boxes, masks, gt_boxes, gt_masks, of_truths)[:, None],
        "mask_targets": _mask_targets(boxes, assigned, gt_boxes, gt_masks, size),
        "gt_classes": gt_classes.astype(np.int64).reshape(truths, 1),
        "output_label": np.where(assigned < 0, 0, gt_classes[assigned]).astype(np.float64)[:, None],
        "gt_assignment": assigned[:, None],
        "Flip": False,
    }


def _mask_overlaps(
    boxes: np.ndarray, masks: np.ndarray, gt_boxes: np.ndarray, gt_masks: Sequence[np.ndarray], of_truths: np.ndarray
) -> np.ndarray:
    """Largest intersection over union [G + n] of each mask with an instance; 1 for the instances, the first G rows."""
    best = np.zeros(len(boxes))
    best[: len(gt_boxes)] = 1
    truths = [mask.astype(np.uint8) for mask in gt_masks]
    areas = [int(cv2.countNonZero(truth)) for truth in truths]
    for row in np.flatnonzero((of_truths > 0).any(1) & (best == 0)).tolist():
        x1, y1, x2, y2 = boxes[row].tolist()
        # The original compares in double precision, where other pixels are at the threshold than in single.
        mask = (cv2.resize(masks[row].astype(np.float64), (x2 - x1 + 1, y2 - y1 + 1)) >= THRESHOLD).view(np.uint8)
        area = int(cv2.countNonZero(mask))
        for truth in np.flatnonzero(of_truths[row]).tolist():
            gx1, gy1, gx2, gy2 = gt_boxes[truth].tolist()
            left, top, right, bottom = max(x1, gx1), max(y1, gy1), min(x2, gx2) + 1, min(y2, gy2) + 1
            ours = mask[top - y1 : bottom - y1, left - x1 : right - x1]
            theirs = truths[truth][top - gy1 : bottom - gy1, left - gx1 : right - gx1]
            common = int(cv2.countNonZero(cv2.bitwise_and(ours, theirs)))
            best[row] = max(best[row], common / max(area + areas[truth] - common, 1))
    return best


def _mask_targets(
    boxes: np.ndarray, assigned: np.ndarray, gt_boxes: np.ndarray, gt_masks: Sequence[np.ndarray], size: int
) -> np.ndarray:
    """What each box sees of its instance, bool [N, size, size]; nothing where it has none."""
    sizes = np.array([mask.shape for mask in gt_masks], np.int64)
    padded = np.zeros((len(gt_masks), *sizes.max(0)), bool)
    for number, mask in enumerate(gt_masks):
        padded[number, : mask.shape[0], : mask.shape[1]] = mask
    rows, found = np.flatnonzero(assigned >= 0), np.zeros((len(boxes), size, size), bool)
    numbers = assigned[rows]
    arrays = (boxes[rows], padded, numbers, sizes[numbers], gt_boxes[numbers])
    of_rows, truths, index, gt_sizes, of_truths = (torch.from_numpy(array) for array in arrays)
    found[rows] = mask_arithmetic.targets(of_rows, truths, index, gt_sizes, of_truths, size, THRESHOLD).numpy()
    return found


def mirrored(arrays: Mapping[str, Any], width: int) -> Arrays:
    """The arrays of the mirror image of an image that is `width` pixels wide."""
    boxes = arrays["boxes"].copy()
    boxes[:, [0, 2]] = width - 1 - boxes[:, [2, 0]]
    sides = {name: arrays[name][:, :, ::-1] for name in ("masks", "mask_targets")}
    return {**arrays, **sides, "boxes": boxes, "Flip": True}
