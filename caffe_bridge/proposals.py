"""Box proposals of a data set's images: made by an RPN, and the files that hold them.

A set of proposals is a list with an array [n, 4] of boxes (x1, y1, x2, y2) in image pixels for every image of the data
set, in its order; `roidb.build` takes it. Files, by their suffix:

- `.safetensors`: boxes float32 [N, 4] of all images, counts int64 [images], and the images' names as JSON (`images` of
  the metadata), by which they are found again.
- `.mat`: selective search's.
- anything else: py-faster-rcnn's pickles, which are read without running what is in them.

Source: py-faster-rcnn, lib/rpn/generate.py and lib/datasets/pascal_voc.py.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy
import scipy.io
import torch

from caffe_bridge import array_pickle, detection
from caffe_bridge.config import cfg
from caffe_bridge.errors import CaffeError
from caffe_bridge.weights.files import replacing

if TYPE_CHECKING:
    from caffe_bridge.datasets.dataset import Dataset

SUFFIX = ".safetensors"

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


def write(path: str, proposals: Sequence[np.ndarray], names: Sequence[str] = ()) -> None:
    """Write proposals; `names` are the images', for a `.safetensors`. Other files are py-faster-rcnn's pickled lists.

    Raises:
        CaffeError: the file cannot be written.
    """
    boxes = [np.asarray(of_image, np.float32).reshape(-1, 4) for of_image in proposals]
    if path.endswith(SUFFIX):
        counts = np.array([len(of_image) for of_image in boxes], np.int64)
        arrays = {"boxes": np.concatenate([np.empty((0, 4), np.float32), *boxes]), "counts": counts}
        content = safetensors.numpy.save(arrays, {"images": json.dumps(list(names))})
    else:
        content = pickle.dumps(boxes, protocol=2)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def read(path: str) -> list[np.ndarray]:
    """Proposals from a file of any of the kinds above.

    Raises:
        CaffeError: the file cannot be read, or holds something else.
    """
    if path.endswith(".mat"):
        return from_selective_search(path)
    if path.endswith(SUFFIX):
        return _read_tensors(path)[0]
    return [_boxes(path, number, boxes) for number, boxes in enumerate(array_pickle.load(path))]


def _read_tensors(path: str) -> tuple[list[np.ndarray], list[str]]:
    """The boxes of each image and the images' names, which may be absent."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            boxes, counts = _boxes(path, 0, file.get_tensor("boxes")), file.get_tensor("counts")
            names = json.loads((file.metadata() or {}).get("images", "[]"))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError, TypeError) as error:
        raise CaffeError(f"{path}: holds no readable proposals: {error}") from error
    if counts.dtype != np.int64 or counts.ndim != 1 or (counts < 0).any() or counts.sum() != len(boxes):
        raise CaffeError(f"{path}: its counts are not those of {len(boxes)} boxes")
    if not isinstance(names, list) or (names and len(names) != len(counts)):
        raise CaffeError(f"{path}: has proposals of {len(counts)} images and not as many names")
    return np.split(boxes, counts.cumsum()[:-1]) if len(counts) else [], names


def of_dataset(dataset: Dataset, files: str | None, method: str) -> list[np.ndarray]:
    """The proposals for the images of a data set, fit to be used (`fitting`).

    Args:
        files: the file, or one for each part of a joined data set with commas between; None for the usual one.
        method: cfg's PROPOSAL_METHOD, which tells the usual file: "selective_search" or "gt", no proposals but the
            ground truth.

    Raises:
        CaffeError: a file cannot be used, belongs to other images, or is not known.
    """
    if files is None and method == "gt":
        return [np.empty((0, 4), np.float32)] * dataset.num_images
    if files is None:
        if method != "selective_search":
            raise CaffeError(f"PROPOSAL_METHOD {method!r}: name the file of proposals with --proposals")
        folder = os.path.join(cfg.DATA_DIR, "selective_search_data")
        paths = [os.path.join(folder, f"{name}.mat") for name in dataset.name.split("+")]
    else:
        paths = [files] if os.path.exists(files) else files.split(",")
    found: list[np.ndarray] = []
    names: list[str] = []
    for path in paths:
        boxes, named = _read_tensors(path) if path.endswith(SUFFIX) else (read(path), [])
        found, names = found + boxes, names + named
    if names and names != dataset.image_names and len(names) == len(found):
        found = _by_name(dataset, found, names, ", ".join(paths))
    return fitting(dataset, found)


def _by_name(dataset: Dataset, proposals: list[np.ndarray], names: list[str], where: str) -> list[np.ndarray]:
    """Those of the data set's images; an image that is not there has none."""
    known = dict(zip(names, proposals))
    if len(known) < len(names):
        raise CaffeError(f"{where}: are proposals of other images than {dataset.name}'s, and some share a name")
    if not known.keys() & set(dataset.image_names):
        raise CaffeError(f"{where}: has no proposal for any of {dataset.name}'s {dataset.num_images} images")
    return [known.get(name, np.empty((0, 4), np.float32)) for name in dataset.image_names]


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
    if not isinstance(boxes, np.ndarray) or boxes.dtype.kind not in "uif" or (boxes.size and boxes.shape[-1:] != (4,)):
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
