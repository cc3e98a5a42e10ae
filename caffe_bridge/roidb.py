"""Training databases as Faster R-CNN and MNC keep them: a dictionary for every image, flipped ones after all others.

An entry holds image (path), name, width, height (image pixels), flipped, boxes int32 [G, 4] (x1, y1, x2, y2; of the
mirrored image where flipped), gt_classes int32 [G] from 1, max_classes (the same) and max_overlaps float32 [G] (1: the
boxes are the ground truth). With proposals, boxes are float32 and go on with n proposals, whose gt_classes are 0, and
whose max_classes and max_overlaps tell the class of the ground truth they overlap most, and the overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from caffe_bridge import bbox_targets, roi_sampling
from caffe_bridge import boxes as box_arithmetic
from caffe_bridge.config import cfg
from caffe_bridge.errors import CaffeError

if TYPE_CHECKING:
    from caffe_bridge.datasets.dataset import Dataset

Entry = dict[str, Any]


class Permuting(Protocol):
    """The `numpy.random` module or a `RandomState`."""

    def permutation(self, x: Any) -> np.ndarray: ...


def build(dataset: Dataset, flipped: bool = False, proposals: Sequence[np.ndarray] | None = None) -> list[Entry]:
    """The entries of a data set, without difficult objects.

    Without `proposals` (an array [n, 4] for every image, see `caffe_bridge.proposals`), those of `training_images`;
    with them, those of all images that `roi_sampling.usable` finds something to train on in.

    Raises:
        CaffeError: nothing is left to train on.
    """
    images = dataset.training_images() if proposals is None else range(dataset.num_images)
    entries = []
    for i in images:
        truth = dataset.annotation(i)
        rows = ~truth.difficult
        height, width = dataset.image_size(i)
        entries.append(
            {
                "image": dataset.image_paths[i],
                "name": dataset.image_names[i],
                "width": width,
                "height": height,
                "flipped": False,
                "boxes": truth.boxes[rows],
                "gt_classes": truth.classes[rows],
                "max_classes": truth.classes[rows],
                "max_overlaps": np.ones(int(rows.sum()), np.float32),
            }
        )
    if proposals is not None:
        entries = [with_proposals(entry, boxes) for entry, boxes in zip(entries, proposals)]
        entries = [entry for entry in entries if roi_sampling.usable(entry["max_overlaps"])]
        if not entries:
            raise CaffeError(f"{dataset.name}: no proposal of its {dataset.num_images} images can be trained on")
    return entries + [mirrored(entry) for entry in entries] if flipped else entries


def with_proposals(entry: Mapping[str, Any], proposals: np.ndarray) -> Entry:
    """An entry of ground truth with proposals [n, 4] after its boxes."""
    truth, classes = entry["boxes"], entry["gt_classes"]
    proposals = np.asarray(proposals, np.float32).reshape(-1, 4)
    overlap, nearest = np.zeros(len(proposals), np.float32), np.zeros(len(proposals), np.int32)
    if len(truth) and len(proposals):
        of_truth = box_arithmetic.overlaps(proposals, truth)
        overlap = of_truth.max(1).astype(np.float32)
        nearest = np.where(overlap > 0, classes[of_truth.argmax(1)], 0)
    return {
        **entry,
        "boxes": np.concatenate([truth.astype(np.float32), proposals]),
        "gt_classes": np.concatenate([classes, np.zeros(len(proposals), classes.dtype)]),
        "max_classes": np.concatenate([entry["max_classes"], nearest]),
        "max_overlaps": np.concatenate([entry["max_overlaps"], overlap]),
    }


def mirrored(entry: Mapping[str, Any]) -> Entry:
    """The entry of the image mirrored left to right."""
    boxes = entry["boxes"].copy()
    boxes[:, [0, 2]] = entry["width"] - 1 - entry["boxes"][:, [2, 0]]
    return {**entry, "boxes": boxes, "flipped": not entry["flipped"]}


def shuffled(entries: Sequence[Mapping[str, Any]], random: Permuting) -> np.ndarray:
    """A random order of the entries: their numbers, drawn as the original data layers draw them.

    With cfg.TRAIN.ASPECT_GROUPING wide images (width >= height) and tall ones are permuted apart, joined, cut into
    pairs, and the pairs permuted. An odd one out, which the originals refuse, comes last.
    """
    if not cfg.TRAIN.ASPECT_GROUPING:
        return random.permutation(np.arange(len(entries)))
    wide = np.array([entry["width"] >= entry["height"] for entry in entries], bool)
    order = np.concatenate([random.permutation(np.flatnonzero(group)) for group in (wide, ~wide)])
    paired = len(order) // 2 * 2
    pairs = order[:paired].reshape(-1, 2)
    return np.concatenate([pairs[random.permutation(np.arange(len(pairs)))].ravel(), order[paired:]])


def add_regression_targets(entries: Sequence[Entry], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Give every entry its `bbox_targets` float32 [G, 5] (class, dx, dy, dw, dh).

    They are normalised if cfg.TRAIN.BBOX_NORMALIZE_TARGETS.

    Returns:
        Mean and standard deviation [classes, 4], which the weights of `bbox_pred` are multiplied with when they are
        saved.
    """
    targets = [bbox_targets.of_rois(entry["boxes"], entry["max_overlaps"], entry["max_classes"]) for entry in entries]
    mean, deviation = bbox_targets.statistics(targets, classes)
    if cfg.TRAIN.BBOX_NORMALIZE_TARGETS:
        bbox_targets.normalise(targets, mean, deviation)
    for entry, rows in zip(entries, targets):
        entry["bbox_targets"] = rows
    return mean, deviation
