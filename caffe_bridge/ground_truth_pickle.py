"""Reads the ground truth that MNC keeps in pickles: voc_2012_train_gt_roidb.pkl and voc_2012_train_gt_maskdb.pkl."""

from __future__ import annotations

from typing import Any

import numpy as np

from caffe_bridge import array_pickle
from caffe_bridge.errors import CaffeError


def read_gt_roidb(path: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Boxes int64 [G, 4] and classes int64 [G] of each image.

    Raises:
        CaffeError: the file cannot be read, or holds something else.
    """
    found = []
    for number, entry in enumerate(array_pickle.load_entries(path)):
        boxes, classes = (_array(path, number, entry, name) for name in ("boxes", "gt_classes"))
        if boxes.ndim != 2 or boxes.shape[1] != 4 or classes.shape != boxes.shape[:1]:
            shapes = f"{boxes.shape} and {classes.shape}"
            raise CaffeError(f"{path}: image {number}: boxes are (G, 4) and gt_classes (G,), not {shapes}")
        found.append((boxes.astype(np.int64), classes.astype(np.int64)))
    return found


def read_gt_masks(path: str) -> list[list[np.ndarray]]:
    """The masks, bool [h, w], of each image.

    Raises:
        CaffeError: the file cannot be read, or holds something else.
    """
    found = []
    for number, entry in enumerate(array_pickle.load_entries(path)):
        masks = entry.get("gt_masks")
        if not isinstance(masks, list) or not all(isinstance(mask, np.ndarray) and mask.ndim == 2 for mask in masks):
            raise CaffeError(f"{path}: image {number} has no list gt_masks of arrays (h, w)")
        found.append([mask.astype(bool) for mask in masks])
    return found


def _array(path: str, number: int, entry: dict[str, Any], name: str) -> np.ndarray:
    value = entry.get(name)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "ui":
        raise CaffeError(f"{path}: image {number} has no array {name} of whole numbers")
    return value
