"""Looks through the files of mask proposals before training: which can be used, and how targets are normalised.

Source of the statistics: MNC, lib/db/roidb.py, `compute_mcg_mean_std`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from tqdm import tqdm

from caffe_bridge import bbox_targets, mask_proposals
from caffe_bridge.config import cfg
from caffe_bridge.datasets import cache
from caffe_bridge.errors import CaffeError
from caffe_bridge.mask_proposals import MaskProposals
from caffe_bridge.weights.files import replacing

KEPT_IN = "statistics.json"

_LISTED = 10  # names in a message

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Survey:
    """What the proposals of a training set are like.

    Attributes:
        mean, deviation: of the regression targets, [num_classes][4]; see `bbox_targets.statistics`.
        unusable: number of an image, to why a file of its proposals cannot be used.
        outside: name of a file, to how many of its proposals leave the image; they do not count.
    """

    mean: list[list[float]]
    deviation: list[list[float]]
    unusable: dict[int, str]
    outside: dict[str, int]

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation, float64 [num_classes, 4]."""
        return np.array(self.mean), np.array(self.deviation)


def survey(files: MaskProposals, classes: int) -> Survey:
    """Read all files, mirrored images' included, and log what is wrong with them.

    The outcome is kept in the folder, in `KEPT_IN`, and found again while the files and the settings are the same.

    Raises:
        CaffeError: the files of no image can be used.
    """
    train = cfg.TRAIN
    fixed = [list(train.BBOX_NORMALIZE_MEANS), list(train.BBOX_NORMALIZE_STDS)]
    settings = [classes, cfg.MASK_SIZE, train.BBOX_THRESH, train.BBOX_NORMALIZE_TARGETS_PRECOMPUTED and fixed]
    entries = range(2 * files.num_images)
    key = cache.fingerprint(settings, [files.roidb_path_at(entry) for entry in entries])
    path = os.path.join(files.folder, KEPT_IN)
    known = _load(path, key, classes)
    found = known or _look(files, classes)
    if known is None:
        _store(path, key, found)
    _report(files, found)
    return found


def _look(files: MaskProposals, classes: int) -> Survey:
    targets: list[np.ndarray] = []
    unusable: dict[int, str] = {}
    outside: dict[str, int] = {}
    for entry in tqdm(range(2 * files.num_images), "proposals", unit="file", disable=None):
        path, image = files.roidb_path_at(entry), entry % files.num_images
        try:
            found = mask_proposals.read_training(path, classes, cfg.MASK_SIZE)
        except CaffeError as error:
            unusable.setdefault(image, str(error))
            continue
        inside = mask_proposals.inside(found.boxes, *files.image_size_at(image))
        if not inside.all():
            outside[path] = int((~inside).sum())
        rows = found.boxes[inside], found.det_overlap[inside], found.output_label[inside]
        of_image = bbox_targets.of_rois(*rows)
        targets.append(of_image[of_image[:, 0] > 0])
    mean, deviation = bbox_targets.statistics(targets, classes)
    return Survey(mean.tolist(), deviation.tolist(), unusable, outside)


def _report(files: MaskProposals, found: Survey) -> None:
    unusable = [*found.unusable.values()]
    if len(unusable) == files.num_images:
        raise CaffeError(f"{files.folder}: no image has proposals to train on; {unusable[0]}")
    for reason in unusable[:_LISTED]:
        logger.warning(reason)
    if unusable:
        logger.warning(f"{len(unusable)} of {files.num_images} images are left out: their proposals cannot be used")
    if found.outside:
        counts = [f"{path} ({count})" for path, count in found.outside.items()]
        names = ", ".join(counts[:_LISTED]) + (", ..." if len(counts) > _LISTED else "")
        logger.warning(f"{sum(found.outside.values())} proposals leave their image and are not used: {names}")


def _store(path: str, key: str, found: Survey) -> None:
    """Write what was found; a folder that refuses is no error."""
    try:
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            json.dump({"key": key, **asdict(found)}, file)
    except (OSError, CaffeError) as error:
        logger.info(f"what the proposals are like is not kept: {error}")


def _load(path: str, key: str, classes: int) -> Survey | None:
    """What `_store` wrote under the same key; None when there is none, or it is of other files or damaged."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        with open(path, encoding="utf-8") as file:
            kept: Mapping = json.load(file)
        unusable = {int(image): str(reason) for image, reason in kept["unusable"].items()}
        outside = {str(name): int(count) for name, count in kept["outside"].items()}
        found = Survey(kept["mean"], kept["deviation"], unusable, outside)
        if kept["key"] == key and all(part.shape == (classes, 4) for part in found.statistics()):
            return found
    return None
