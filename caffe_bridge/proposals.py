"""Box proposals of a data set's images: made by an RPN, read from py-faster-rcnn's and selective search's files.

A set of proposals is a list with an array [n, 4] of boxes (x1, y1, x2, y2) in image pixels for every image of the data
set, in its order; `roidb.build` takes it. Source: py-faster-rcnn, lib/rpn/generate.py and lib/datasets/pascal_voc.py.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.io
import torch

from caffe_bridge import array_pickle, detection
from caffe_bridge.errors import CaffeError

if TYPE_CHECKING:
    from caffe_bridge.datasets.dataset import Dataset

_HASH = np.array([1, 1e3, 1e6, 1e9])
_EDGE = 1.0  # pixels by which an RPN's box may leave the image, for it is clipped in the scaled one
_NAMED = 5  # images in a message

logger = logging.getLogger(__name__)


@torch.no_grad()
def propose(net: Any, image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The proposals of an RPN for one image.

    Args:
        net: a test net with the outputs rois and scores. To collect many, set cfg.TEST.RPN_PRE_NMS_TOP_N to -1 and
            RPN_POST_NMS_TOP_N to 2000, as the original does.
        image: [H, W, 3], blue, green, red, 0 to 255.

    Returns:
        Boxes [n, 4] in image pixels, clipped in the scaled image only, by falling score; and scores [n, 1].
    """
    data, im_info, scale = detection.one_level(image)
    blobs = net(data=data, im_info=im_info, blobs=["rois", "scores"])
    boxes = blobs["rois"][:, 1:]
    return boxes / boxes.new_tensor(scale), blobs["scores"]


def write(path: str, proposals: Sequence[np.ndarray]) -> None:
    """Write proposals as py-faster-rcnn does, a pickled list of arrays. Raises CaffeError when that is impossible."""
    try:
        with open(path, "wb") as file:
            pickle.dump([np.asarray(boxes, np.float32) for boxes in proposals], file, protocol=2)
    except OSError as error:
        raise CaffeError(f"{path}: cannot be written: {error.strerror}") from error


def read(path: str) -> list[np.ndarray]:
    """Proposals from a file: `.mat` is selective search's (`from_selective_search`), others are an RPN's (`write`).

    Raises:
        CaffeError: the file cannot be read, or holds something else.
    """
    if path.endswith(".mat"):
        return from_selective_search(path)
    return [_boxes(path, number, boxes) for number, boxes in enumerate(array_pickle.load(path))]


def from_selective_search(path: str, min_size: int = 2) -> list[np.ndarray]:
    """The proposals in one of selective search's MATLAB files: a cell array `boxes` of (y1, x1, y2, x2) from 1.

    The first of boxes with the same rounded corners stays. Boxes go that are less than `min_size` wide or at most
    `min_size` high, both measured without the + 1, as published.

    Raises:
        CaffeError: the file cannot be read, or holds something else.
    """
    try:
        cells = scipy.io.loadmat(path, variable_names=["boxes"])["boxes"].ravel()
    except Exception as error:  # the reader raises whatever it stumbles over in a damaged file
        reason = getattr(error, "strerror", None) or f"holds no readable cell array boxes ({type(error).__name__})"
        raise CaffeError(f"{path}: {reason}") from error
    found = []
    for number, cell in enumerate(cells):
        boxes = _boxes(path, number, cell)[:, (1, 0, 3, 2)] - 1
        _, first = np.unique(np.round(boxes) @ _HASH, return_index=True)
        boxes = boxes[np.sort(first)]
        sides = boxes[:, 2:] - boxes[:, :2]
        found.append(boxes[(sides[:, 0] >= min_size) & (sides[:, 1] > min_size)])
    return found


def _boxes(path: str, number: int, boxes: Any) -> np.ndarray:
    """The boxes of one image in a file as float32 [n, 4]."""
    if not isinstance(boxes, np.ndarray) or boxes.dtype.kind not in "uif" or (boxes.size and boxes.shape[-1] != 4):
        raise CaffeError(f"{path}: the proposals of image {number} are no boxes [n, 4]")
    return boxes.reshape(-1, 4).astype(np.float32)


def fitting(dataset: Dataset, proposals: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Proposals that can be trained and tested on: without those that are no boxes or leave their image.

    A pixel over the edge is allowed. What is left out, and images that have no proposal, are logged.

    Raises:
        CaffeError: there is another number of arrays than of images.
    """
    if len(proposals) != dataset.num_images:
        raise CaffeError(f"{dataset.name} has {dataset.num_images} images, there are proposals for {len(proposals)}")
    kept, outside, without = [], [], []
    for i, boxes in enumerate(proposals):
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        height, width = dataset.image_size(i)
        fits = (boxes[:, 2:] >= boxes[:, :2]).all(1) & (boxes[:, :2] >= -_EDGE).all(1)
        fits &= (boxes[:, 2] < width + _EDGE) & (boxes[:, 3] < height + _EDGE)
        if not fits.all():
            outside.append(f"{dataset.image_names[i]}: {int((~fits).sum())} of {len(boxes)}")
        kept.append(boxes[fits])
        if not fits.any():
            without.append(dataset.image_names[i])
    if outside:
        logger.warning(f"{dataset.name}: proposals that leave their image are left out: {_listed(outside)}")
    if without:
        logger.warning(f"{dataset.name}: {len(without)} images have no proposal: {_listed(without)}")
    return kept


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
