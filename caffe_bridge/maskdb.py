"""The masks that go with a training database, entry for entry, as MNC keeps them.

An entry holds gt_masks (bool [h, w], one for each box of the roidb's entry and as large as that box), mask_max (the
largest width and the largest height among them) and flipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caffe_bridge.datasets.dataset import Dataset

Entry = dict[str, Any]


def build(dataset: Dataset, flipped: bool = False) -> list[Entry]:
    """The entries of a data set's `training_images`, without difficult objects.

    Masks are unpacked when they are asked for, so that a database takes a bit for a pixel.

    Raises:
        CaffeError: the data set has boxes only.
    """
    entries = []
    for i in dataset.training_images():
        truth = dataset.annotation(i)
        masks = dataset.require_masks(truth.where(~truth.difficult))
        entries.append({"gt_masks": masks, "mask_max": masks.sizes.max(0)[::-1].tolist(), "flipped": False})
    return entries + [mirrored(entry) for entry in entries] if flipped else entries


def mirrored(entry: Mapping[str, Any]) -> Entry:
    """The entry of the image mirrored left to right."""
    return {**entry, "gt_masks": entry["gt_masks"].mirrored(), "flipped": not entry["flipped"]}
