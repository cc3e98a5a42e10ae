"""Bounding-box regression targets of training data: assignment, class columns, and their mean and deviation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from caffe_bridge import boxes
from caffe_bridge.boxes import Array
from caffe_bridge.config import cfg


def normalised(targets: Array) -> Array:
    """Targets [N, 4] less the mean and by the deviation of the settings, in float64.

    Unchanged unless `cfg.TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED`.
    """
    if not cfg.TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED:
        return targets
    mean, deviation = cfg.TRAIN.BBOX_NORMALIZE_MEANS, cfg.TRAIN.BBOX_NORMALIZE_STDS
    if isinstance(targets, torch.Tensor):
        mean, deviation = (targets.new_tensor(values, dtype=torch.float64) for values in (mean, deviation))
        return (targets.double() - mean) / deviation
    return (targets - np.array(mean, np.float64)) / np.array(deviation, np.float64)


def per_class(targets: Array, labels: Array, classes: int) -> tuple[Array, Array]:
    """Targets [N, 4] moved to the columns of their class: [N, 4 * classes], and the weights of those columns.

    Rows with label 0 stay zero; the others are weighted with `cfg.TRAIN.BBOX_INSIDE_WEIGHTS`.
    """
    library: Any
    if isinstance(targets, torch.Tensor):
        library, number = torch, torch.arange(classes, device=targets.device)
        inside = targets.new_tensor(cfg.TRAIN.BBOX_INSIDE_WEIGHTS)
    else:
        library, number = np, np.arange(classes)
        inside = np.array(cfg.TRAIN.BBOX_INSIDE_WEIGHTS, targets.dtype)
    chosen = ((labels[:, None] == number) & (number > 0))[:, :, None]
    zero = library.zeros_like(targets[:, None])
    shape = (len(targets), 4 * classes)
    return (
        library.where(chosen, targets[:, None], zero).reshape(shape),
        library.where(chosen, inside, zero).reshape(shape),
    )


def of_rois(rois: np.ndarray, overlaps: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Targets (label, dx, dy, dw, dh) float32 [N, 5] of the RoIs [N, 4] of one image.

    RoIs whose overlap with their ground truth is exactly 1 are the ground truth; those of at least
    `cfg.TRAIN.BBOX_THRESH` get targets, the others and images without ground truth zeros.
    """
    targets = np.zeros((len(rois), 5), np.float32)
    truth = np.flatnonzero(overlaps == 1)
    examples = np.flatnonzero(overlaps >= cfg.TRAIN.BBOX_THRESH)
    if len(truth) and len(examples):
        nearest = truth[boxes.overlaps(rois[examples], rois[truth]).argmax(1)]
        targets[examples, 0] = labels[examples]
        targets[examples, 1:] = boxes.encode(rois[examples], rois[nearest])
    return targets


def statistics(targets: Sequence[np.ndarray], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [classes, 4] of the targets (`of_rois`) of all images, class by class.

    With `cfg.TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED`, those of the settings for every class. Classes without an
    example, and the background, get zeros.
    """
    if cfg.TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED:
        constants = cfg.TRAIN.BBOX_NORMALIZE_MEANS, cfg.TRAIN.BBOX_NORMALIZE_STDS
        mean, deviation = (np.tile(np.array(values, np.float64), (classes, 1)) for values in constants)
        return mean, deviation
    count = np.full((classes, 1), cfg.EPS)
    total, squares = np.zeros((classes, 4)), np.zeros((classes, 4))
    for image in targets:
        for label in np.unique(image[:, 0][image[:, 0] > 0]).astype(int):
            rows = image[image[:, 0] == label, 1:]
            count[label] += len(rows)
            total[label] += rows.sum(0)
            squares[label] += (rows**2).sum(0)
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def normalise(targets: Sequence[np.ndarray], mean: np.ndarray, deviation: np.ndarray) -> None:
    """Subtract the mean and divide by the deviation of each row's class, in place; rows with label 0 are left.

    A deviation of 0, which only a class with equal targets has, does not divide.
    """
    deviation = np.where(deviation == 0, 1, deviation)
    for image in targets:
        rows = image[:, 0] > 0
        label = image[rows, 0].astype(int)
        image[rows, 1:] = (image[rows, 1:] - mean[label]) / deviation[label]
