"""Mask proposals as MCG publishes them: superpixels of an image, and the numbers of those each proposal is made of.

A file holds superpixels (H, W), the number of the superpixel each pixel belongs to, and labels, a cell array (n, 1) of
the superpixel numbers of each proposal, best proposal first. Source: Arbelaez et al., Multiscale Combinatorial
Grouping, CVPR 2014; MNC, tools/prepare_mcg_maskdb.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage

from caffe_bridge import matlab_files
from caffe_bridge.errors import CaffeError

_TABLE = 1 << 24  # entries of the table of proposals and superpixels that is filled at a time


@dataclass(frozen=True)
class Grouping:
    """The superpixels of an image and the proposals made of them.

    Attributes:
        superpixels: int64 [H, W], numbers from 0 without gaps.
        members: int64 [L], the superpixels of all proposals, one proposal after the other.
        starts: int64 [n], where each proposal's begin; each has one or more.
        empty: how many proposals were left out because they have no pixel.
    """

    superpixels: np.ndarray
    members: np.ndarray
    starts: np.ndarray
    empty: int

    def __len__(self) -> int:
        return len(self.starts)


def read(path: str, top_k: int = -1) -> Grouping:
    """The proposals in a file, or the first `top_k` of them.

    Superpixel numbers that no pixel has are ignored, as the original ignores them.

    Raises:
        CaffeError: the file cannot be read, or holds something else.
    """
    found = matlab_files.load(path, ("superpixels", "labels"))
    pixels, cells = found["superpixels"], found["labels"].ravel()
    if pixels.ndim != 2 or not pixels.size or pixels.dtype.kind not in "uif":
        raise CaffeError(f"{path}: superpixels are numbers (H, W), not {pixels.dtype} {pixels.shape}")
    if len(cells) and cells.dtype.kind != "O":
        raise CaffeError(f"{path}: labels are a cell array with the superpixels of each proposal")
    if top_k != -1:
        cells = cells[:top_k]
    labels = []
    for number, cell in enumerate(cells):
        if not isinstance(cell, np.ndarray) or cell.dtype.kind not in "uif":
            raise CaffeError(f"{path}: the labels of proposal {number + 1} are no numbers")
        labels.append(cell.ravel())
    return group(pixels, labels)


def group(pixels: np.ndarray, labels: Sequence[np.ndarray]) -> Grouping:
    """Proposals out of superpixels [H, W] with any numbers, and those that make up each proposal."""
    values, superpixels = np.unique(pixels, return_inverse=True)
    wanted = np.concatenate([np.empty(0, values.dtype), *labels])
    owner = np.repeat(np.arange(len(labels)), [len(label) for label in labels])
    members = np.searchsorted(values, wanted).clip(max=len(values) - 1)
    known = values[members] == wanted
    _, starts = np.unique(owner[known], return_index=True)
    return Grouping(superpixels.reshape(pixels.shape), members[known], starts, len(labels) - len(starts))


def decode(grouping: Grouping, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and masks of all proposals at once.

    Returns:
        int64 [n, 4], tight boxes (x1, y1, x2, y2) in image pixels, corners inclusive; and bool [n, size, size], what
        each proposal has of its box, as cv2.resize shrinks it with INTER_NEAREST.
    """
    pixels, members, starts = grouping.superpixels, grouping.members, grouping.starts
    count, kinds = len(starts), int(pixels.max()) + 1
    masks = np.empty((count, size, size), bool)
    if not count:
        return np.empty((0, 4), np.int64), masks
    places = [(x.start, y.start, x.stop - 1, y.stop - 1) for y, x in scipy.ndimage.find_objects(pixels + 1)]
    corners = np.array(places, np.int64)[members]
    low = np.minimum.reduceat(corners[:, :2], starts)
    high = np.maximum.reduceat(corners[:, 2:], starts)
    x, y = (low[:, axis, None] + _nearest(high[:, axis] - low[:, axis] + 1, size) for axis in (0, 1))

    ends = np.append(starts[1:], len(members))
    step = max(1, _TABLE // max(kinds, size * size))
    for first in range(0, count, step):
        rows = slice(first, first + step)
        sizes = ends[rows] - starts[rows]
        has = np.zeros((len(sizes), kinds), bool)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        has[owner, members[starts[first] : starts[first] + len(owner)]] = True
        seen = pixels[y[rows, :, None], x[rows, None, :]]
        masks[rows] = has[np.arange(len(sizes))[:, None, None], seen]
    return np.concatenate([low, high], axis=1), masks


def _nearest(lengths: np.ndarray, size: int) -> np.ndarray:
    """The pixels [n, size] that OpenCV picks when it shrinks n sides of these lengths to `size` pixels."""
    at = np.floor(np.arange(size) * (1.0 / (size / lengths))[:, None]).astype(np.int64)
    return np.minimum(at, lengths[:, None] - 1)


def write(path: str, superpixels: np.ndarray, labels: Sequence[np.ndarray]) -> None:
    """Write superpixels [H, W] and the numbers of those in each proposal as MCG does.

    The file appears complete or not at all. Raises CaffeError when it cannot be written.
    """
    cells = np.empty((len(labels), 1), object)
    for number, label in enumerate(labels):
        cells[number, 0] = np.asarray(label, np.int32)[None]
    matlab_files.save(path, {"superpixels": superpixels.astype(np.int32), "labels": cells})
