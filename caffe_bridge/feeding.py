"""Hands a data set to the data layers of a train net: one function for each kind of training data.

A layer shows what it takes by its method: `set_roidb`, images with the ground truth or, where it `takes_proposals`,
with box proposals (Fast R-CNN); `set_image_info`, images with the files of their mask proposals (CFM).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_bridge import proposal_survey, roidb
from caffe_bridge import proposals as box_proposals
from caffe_bridge.class_count import class_count
from caffe_bridge.config import cfg
from caffe_bridge.errors import CaffeError
from caffe_bridge.mask_proposals import MaskProposals
from caffe_bridge.net import Net

if TYPE_CHECKING:
    from caffe_bridge.datasets import Dataset


@dataclass(frozen=True)
class Fed:
    """What the data layers were given.

    Attributes:
        entries: how many images, mirrored ones included.
        statistics: mean and deviation [num_classes, 4] that box regression targets are normalised by; None where they
            are not.
    """

    entries: int
    statistics: tuple[np.ndarray, np.ndarray] | None


def feed(net: Net, imdb: Dataset, proposals: str | None = None) -> Fed:
    """Give the data layers of a train net a data set.

    Args:
        proposals: the images' proposals, for nets that train on them: a folder of masks, by default
            `mask_proposals.usual_folder`; or files of boxes, as `proposals.of_dataset` takes them.

    Raises:
        CaffeError: the data set has another number of classes than the net, or lacks what the net trains on; no layer
            takes a data set; the targets of a net with an RPN were to be normalised by what only its proposals could
            tell; or no proposals can be used.
    """
    count = class_count(net.definition)
    if imdb.num_classes != count:
        raise CaffeError(
            f"{imdb.name} has {imdb.num_classes} classes, the net {count} (background included): "
            f"make the net for them with --classes {imdb.num_classes}"
        )
    for method, function in (("set_image_info", _feed_mask_proposals), ("set_roidb", _feed_boxes)):
        layers = [node.layer for node in net.graph.nodes if hasattr(node.layer, method)]
        if layers:
            return function(layers, imdb, proposals)
    raise CaffeError(f"no layer of {net.name or 'the net'} takes a data set (it would have set_roidb)")


def _normalised() -> bool:
    return bool(cfg.TRAIN.BBOX_REG and cfg.TRAIN.BBOX_NORMALIZE_TARGETS)


def _feed_boxes(layers: Sequence[Any], imdb: Dataset, proposals: str | None) -> Fed:
    """Images with the ground truth, and its masks in cfg.MNC_MODE, or with proposals; mirrored ones too with
    cfg.TRAIN.USE_FLIPPED.
    """
    on_proposals = any(getattr(layer, "takes_proposals", False) for layer in layers)
    if not on_proposals and _normalised() and not cfg.TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED:
        raise CaffeError(
            "the targets of RoIs that an RPN makes can only be normalised by fixed numbers: "
            "set TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED True"
        )
    if on_proposals:
        found = box_proposals.of_dataset(imdb, proposals, cfg.TRAIN.PROPOSAL_METHOD)
        entries = roidb.build(imdb, cfg.TRAIN.USE_FLIPPED, found)
    else:
        entries = imdb.roidb(flipped=cfg.TRAIN.USE_FLIPPED)
    statistics = roidb.add_regression_targets(entries, imdb.num_classes) if cfg.TRAIN.BBOX_REG else None
    masked = [layer for layer in layers if cfg.MNC_MODE and hasattr(layer, "set_maskdb")]
    masks = imdb.maskdb(flipped=cfg.TRAIN.USE_FLIPPED) if masked else None
    for layer in layers:
        layer.set_roidb(entries)
    for layer in masked:
        layer.set_maskdb(masks)
    return Fed(len(entries), statistics if _normalised() else None)


def _feed_mask_proposals(layers: Sequence[Any], imdb: Dataset, proposals: str | None) -> Fed:
    """Images with mask proposals, and always their mirror images, as the original has it."""
    files = MaskProposals(imdb, proposals, imdb.training_images())
    found = proposal_survey.survey(files, imdb.num_classes)
    files, statistics = files.without(found.unusable), found.statistics()
    if not _normalised():
        statistics = np.zeros_like(statistics[0]), np.ones_like(statistics[1])
    for layer in layers:
        layer.set_image_info(files, *statistics)
    return Fed(2 * files.num_images, statistics if _normalised() else None)
