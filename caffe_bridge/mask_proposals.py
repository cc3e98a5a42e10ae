"""Mask proposals as CFM keeps them: a MATLAB file for each image, and one more for the mirrored image.

A file holds the n proposals of an image, in training files the G ground-truth instances first:

- boxes (n, 4): x1, y1, x2, y2 in image pixels; masks (n, M, M): 0 or 1 over the box;
- and for training gt_classes (G, 1); gt_assignment, output_label, det_overlap, seg_overlap (n, 1): the instance each
  overlaps most (-1 for none), its class, and the overlap of boxes and of masks; mask_targets (n, M, M): 0 or 1;
  Flip: whether the boxes are those of the mirrored image.

Source: MNC, tools/prepare_mcg_maskdb.py and lib/db/roidb.py.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_bridge import matlab_files
from caffe_bridge.config import cfg
from caffe_bridge.errors import CaffeError

if TYPE_CHECKING:
    from caffe_bridge.datasets.dataset import Dataset

logger = logging.getLogger(__name__)

_EDGE = 1.0  # pixels by which a box may leave its image
_COLUMNS = ("gt_assignment", "output_label", "det_overlap", "seg_overlap")


@dataclass(frozen=True)
class Proposals:
    """The proposals of an image, to test a net on.

    Attributes:
        boxes: float64 [n, 4], image pixels.
        masks: float32 [n, M, M].
    """

    boxes: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True)
class TrainingProposals(Proposals):
    """The proposals of an image with what they are compared to.

    Attributes:
        flipped: whether they are those of the mirrored image.
        gt_classes: int64 [G], of the instances, which are the first G proposals.
        gt_assignment: int64 [n], number of the instance each overlaps most, -1 for none.
        output_label: int64 [n], its class.
        det_overlap, seg_overlap: float64 [n], of boxes and of masks.
        mask_targets: float32 [n, M, M].
    """

    flipped: bool
    gt_classes: np.ndarray
    gt_assignment: np.ndarray
    output_label: np.ndarray
    det_overlap: np.ndarray
    seg_overlap: np.ndarray
    mask_targets: np.ndarray


def read(path: str) -> Proposals:
    """The proposals in a file, as a test needs them. Raises CaffeError, naming the file, when it has none."""
    return Proposals(*_boxes_and_masks(path, _load(path, ("boxes", "masks"))))


def read_training(path: str, classes: int, mask_size: int | None = None) -> TrainingProposals:
    """The proposals in a file, as training needs them.

    Raises:
        CaffeError: the file cannot be read, lacks something, or contradicts itself or the number of classes; or its
            masks are not [mask_size, mask_size].
    """
    values = _load(path, ("boxes", "masks", "mask_targets", "gt_classes", "Flip", *_COLUMNS))
    boxes, masks = _boxes_and_masks(path, values)
    count, truths = len(boxes), values["gt_classes"].size
    for name in _COLUMNS:
        if values[name].size != count:
            raise CaffeError(f"{path}: has {count} boxes and {values[name].size} of {name}")
    if values["mask_targets"].shape != masks.shape:
        raise CaffeError(f"{path}: has masks {masks.shape} and mask_targets {values['mask_targets'].shape}")
    if mask_size is not None and masks.shape[1:] != (mask_size, mask_size):
        raise CaffeError(f"{path}: has masks of {masks.shape[1:]}, MASK_SIZE is {mask_size}")
    if not 0 < truths <= count:
        raise CaffeError(f"{path}: has {truths} instances among {count} proposals; they are the first of them")
    whole = {name: _numbers(path, name, values[name], np.int64) for name in ("gt_classes", *_COLUMNS[:2])}
    for name, low, high in (("gt_classes", 0, classes), ("output_label", 0, classes), ("gt_assignment", -1, truths)):
        if whole[name].min() < low or whole[name].max() >= high:
            raise CaffeError(f"{path}: {name} goes from {whole[name].min()} to {whole[name].max()}, not below {high}")
    return TrainingProposals(
        boxes,
        masks,
        bool(values["Flip"].any()),
        **whole,
        det_overlap=_numbers(path, "det_overlap", values["det_overlap"], np.float64),
        seg_overlap=_numbers(path, "seg_overlap", values["seg_overlap"], np.float64),
        mask_targets=values["mask_targets"].astype(np.float32),
    )


def _load(path: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    found = matlab_files.load(path, names)
    for name, values in found.items():
        if values.dtype.kind not in "buif":
            raise CaffeError(f"{path}: {name} is no array of numbers")
    return found


def _boxes_and_masks(path: str, values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    boxes, masks = values["boxes"], values["masks"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or masks.shape[:1] != boxes.shape[:1] or masks.ndim != 3:
        raise CaffeError(f"{path}: boxes are (n, 4) and masks (n, M, M), not {boxes.shape} and {masks.shape}")
    return _numbers(path, "boxes", boxes, np.float64).reshape(-1, 4), masks.astype(np.float32)


def _numbers(path: str, name: str, values: np.ndarray, dtype: Any) -> np.ndarray:
    if not np.isfinite(values).all():
        raise CaffeError(f"{path}: {name} has values that are no numbers")
    return values.astype(dtype).ravel()


def inside(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Whether boxes [n, 4] lie in an image and have a pixel, give or take one pixel: bool [n]."""
    ordered = (boxes[:, 2:] >= boxes[:, :2]).all(1)
    return ordered & (boxes[:, :2] >= -_EDGE).all(1) & (boxes[:, 2] < width + _EDGE) & (boxes[:, 3] < height + _EDGE)


def usual_folder(dataset: Dataset) -> str:
    """Where a data set's files are unless said otherwise, as in the original: DATA_DIR/cache/NAME_mcg_maskdb.

    NAME is the data set's without "_seg": voc_2012_train for voc_2012_seg_train.
    """
    return os.path.join(cfg.DATA_DIR, "cache", f"{dataset.name.replace('_seg', '')}_mcg_maskdb")


class MaskProposals:
    """A data set's files in a folder, NAME.mat and NAME_flip.mat, as CFM's data layer takes them.

    Args:
        images: numbers of the images to take, in this order; by default all.

    Attributes:
        num_images: how many images there are, mirrored ones not counted.
        unusable: path of a file that `proposals_at` could not use, to the reason.

    Raises:
        CaffeError: there is no such folder, or it has no file for any of the images.
    """

    def __init__(self, dataset: Dataset, folder: str | None = None, images: Iterable[int] | None = None):
        self.folder = folder or usual_folder(dataset)
        if not os.path.isdir(self.folder):
            raise CaffeError(
                f"{self.folder}: there is no such folder; caffe-bridge prepare-mcg-maskdb makes it, "
                "and --proposals says where it is"
            )
        self._dataset = dataset
        self._images = list(range(dataset.num_images) if images is None else images)
        self.num_images = len(self._images)
        self.unusable: dict[str, str] = {}
        if not any(os.path.exists(self.roidb_path_at(i)) for i in range(self.num_images)):
            raise CaffeError(
                f"{self.folder}: has no proposals for any of the {self.num_images} images of {dataset.name}, "
                f"such as {os.path.basename(self.roidb_path_at(0))}"
            )

    def image_path_at(self, image: int) -> str:
        """The image file of image number `image`."""
        return self._dataset.image_paths[self._images[image]]

    def image_size_at(self, image: int) -> tuple[int, int]:
        """Its height and width."""
        return self._dataset.image_size(self._images[image])

    def roidb_path_at(self, entry: int) -> str:
        """The proposals of an image, or, from `num_images` on, of the mirrored ones."""
        mirrored = "_flip" if entry >= self.num_images else ""
        name = self._dataset.image_names[self._images[entry % self.num_images]]
        return os.path.join(self.folder, f"{name}{mirrored}.mat")

    def proposals_at(self, image: int) -> Proposals:
        """The proposals of an image to test a net on: none where their file cannot be used, none that leave the image.

        Both are logged, with the file.
        """
        path = self.roidb_path_at(image)
        try:
            found = read(path)
        except CaffeError as error:
            self.unusable[path] = str(error)
            logger.warning(f"{error}; its image counts as one where nothing is found, {len(self.unusable)} so far")
            return Proposals(np.zeros((0, 4)), np.zeros((0, cfg.MASK_SIZE, cfg.MASK_SIZE), np.float32))
        kept = inside(found.boxes, *self.image_size_at(image))
        if not kept.all():
            logger.warning(f"{path}: {int((~kept).sum())} of {len(kept)} proposals leave the image; not looked at")
        return Proposals(found.boxes[kept], found.masks[kept])

    def without(self, images: Container[int]) -> MaskProposals:
        """The same but for some images, by their numbers here."""
        kept = [number for i, number in enumerate(self._images) if i not in images]
        return MaskProposals(self._dataset, self.folder, kept)
