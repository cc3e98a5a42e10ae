"""CFM's data layer: images with mask proposals, sampled by their overlap with the ground truth."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import numpy as np
import torch

from caffe_bridge import bbox_targets, boxes, mask_proposals, masks
from caffe_bridge.config import cfg
from caffe_bridge.errors import CaffeError, LayerError
from caffe_bridge.layers import image_feed
from caffe_bridge.layers.base import Shape
from caffe_bridge.layers.image_feed import Draw, ImageFeed, Tops
from caffe_bridge.mask_proposals import TrainingProposals
from caffe_bridge.registry import register_python
from caffe_bridge.scaling import as_blob

logger = logging.getLogger(__name__)


class ProposalFiles(Protocol):
    """Where images and their proposals are, such as `mask_proposals.MaskProposals`."""

    num_images: int

    def image_path_at(self, image: int) -> str: ...

    def roidb_path_at(self, entry: int) -> str: ...


def draw_rois(det_overlap: np.ndarray, count: int, random: Any) -> tuple[np.ndarray, int]:
    """Draw proposals by their box overlap [N] from the closed intervals of cfg.TRAIN.THRESH_LO_SAMPLE and _HI_SAMPLE.

    Each interval gives at most its FRACTION_SAMPLE of `count`, rounded half to even; what several give is taken once.

    Returns:
        Row numbers, the foreground first, which has an overlap of cfg.TRAIN.FG_DET_THRESH or more; and how many rows
        that are. As published, row 0 counts as foreground wherever there is any.
    """
    settings = cfg.TRAIN
    intervals = settings.FRACTION_SAMPLE, settings.THRESH_LO_SAMPLE, settings.THRESH_HI_SAMPLE
    if not len(intervals[0]) == len(intervals[1]) == len(intervals[2]):
        raise LayerError("TRAIN.FRACTION_SAMPLE, THRESH_LO_SAMPLE and THRESH_HI_SAMPLE have different lengths")
    keep = np.empty(0, np.int64)
    for number, (fraction, low, high) in enumerate(zip(*intervals)):
        candidates = np.flatnonzero((det_overlap >= low) & (det_overlap <= high))
        if len(candidates):
            size = min(max(int(np.round(count * fraction)), 0), len(candidates))
            candidates = random.choice(candidates, size=size, replace=False)
        keep = candidates if number == 0 else np.unique(np.concatenate([keep, candidates]))
    foreground = det_overlap[keep] >= settings.FG_DET_THRESH
    if (det_overlap >= settings.FG_DET_THRESH).any():
        foreground |= keep == 0
    return np.concatenate([keep[foreground], keep[~foreground]]), int(foreground.sum())


@register_python("pylayer.cfm_data_layer", "CFMDataLayer")
class CFMDataLayer(ImageFeed):
    """Batches of cfg.TRAIN.IMS_PER_BATCH images with RoIs sampled from mask proposals; `set_image_info` says where.

    Tops, for n images and K RoIs: data (n, 3, h, w), images less cfg.PIXEL_MEANS, scaled as MNC's data layer scales
    them; rois (K, 5): number of the image, x1, y1, x2, y2 in scaled-image pixels; masks (K, 1, m, m), the proposals'
    masks, m cfg.TEST.CFM_INPUT_MASK_SIZE; box_label, mask_label (K, 1): class by the overlap of boxes, and by that of
    masks too; bbox_targets (K, 4 * num_classes); mask_targets (K, 1, M, M), M cfg.MASK_SIZE; bbox_inside_weights,
    bbox_outside_weights (K, 4 * num_classes); mask_weight (K, 1, M, M). Foreground comes first, image by image.

    `param_str` and random draws as `ImageFeed` has them; `set_image_info` shuffles, and the sampling (`draw_rois`)
    follows the scales. Proposals that leave their image by more than a pixel are never drawn.
    Source: MNC's pylayer/cfm_data_layer.py.

    Attributes:
        outside: path of a file of proposals to the number of those that leave the image.
    """

    tops = (10, 10)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        super().setup(bottom_shapes)
        self._files: ProposalFiles | None = None
        self.outside: dict[str, int] = {}
        self._mean, self._deviation = np.zeros((self.classes, 4)), np.ones((self.classes, 4))

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        largest = int(max(cfg.TRAIN.SCALES, default=1)), int(cfg.TRAIN.MAX_SIZE)
        data: Shape = (super().images_per_batch(), 3, *largest)
        small, mask = (1, 1, *[cfg.TEST.CFM_INPUT_MASK_SIZE] * 2), (1, 1, cfg.MASK_SIZE, cfg.MASK_SIZE)
        columns = (1, 4 * self.classes)
        # The original says (1, 4) for the RoIs, which the layers behind do not take.
        return [data, (1, 5), small, (1, 1), (1, 1), columns, mask, columns, columns, mask]

    def set_image_info(self, imdb: ProposalFiles, mean: np.ndarray, std: np.ndarray) -> None:
        """Take the images with their proposals, and shuffle them.

        Args:
            mean, std: of the regression targets [num_classes, 4] (`proposal_survey.survey`); a class with a
                deviation of 0, which has no example or one, is not divided.

        Raises:
            LayerError: there is no image, or the statistics are of another number of classes.
        """
        mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        if mean.shape != (self.classes, 4) or std.shape != (self.classes, 4):
            raise LayerError(f"mean and deviation are ({self.classes}, 4), not {mean.shape} and {std.shape}")
        if imdb.num_images < 1:
            raise LayerError("the data set has no image")
        self._files, self._mean, self._deviation = imdb, mean, np.where(std == 0, 1, std)
        self.restart(2 * imdb.num_images, self._shuffled)

    def _shuffled(self, random: Any) -> np.ndarray:
        """A random order of images and mirror images; with cfg.TRAIN.ASPECT_GROUPING of pairs of neighbours in one."""
        count = self._entries().num_images
        if not cfg.TRAIN.ASPECT_GROUPING:
            return random.permutation(np.arange(2 * count))
        # The original compares widths with widths, so that all images are in one group.
        order = random.permutation(np.arange(count))
        pairs = np.concatenate([order, order + count]).reshape(-1, 2)
        return pairs[random.permutation(np.arange(count))].ravel()

    def _entries(self) -> ProposalFiles:
        if self._files is None:
            raise LayerError("has no data; hand them over before the first pass: layer.set_image_info(...)")
        return self._files

    def images_per_batch(self) -> int:
        self._entries()
        return super().images_per_batch()

    def name_of(self, entry: int) -> str:
        return self._entries().roidb_path_at(entry)

    def prepare(self, draw: Draw) -> Tops:
        share, random, files = cfg.TRAIN.BATCH_SIZE // len(draw.entries), draw.random(), self._entries()
        images, parts = [], []
        for number, (entry, target_size) in enumerate(zip(draw.entries, draw.target_sizes)):
            path = files.roidb_path_at(entry)
            proposals = mask_proposals.read_training(path, self.classes, cfg.MASK_SIZE)
            picture = files.image_path_at(entry % files.num_images)
            image, scale, size = image_feed.read_scaled(picture, proposals.flipped, target_size)
            inside = mask_proposals.inside(proposals.boxes, *size)
            if not inside.all() and path not in self.outside:
                self.outside[path] = int((~inside).sum())
                logger.warning(f"{path}: {self.outside[path]} of {len(inside)} proposals leave the image; not drawn")
            rows, foreground = draw_rois(np.where(inside, proposals.det_overlap, np.nan), share, random)
            if not len(rows):
                raise CaffeError(f"{path}: has no proposal that the intervals of TRAIN.THRESH_*_SAMPLE allow")
            images.append(image)
            parts.append(self._roi_tops(proposals, rows, foreground, number, scale))
        tops = [as_blob(images), *(np.concatenate(part) for part in zip(*parts))]
        return tuple(torch.from_numpy(top.astype(np.float32, copy=False)) for top in tops)

    def _roi_tops(
        self, proposals: TrainingProposals, rows: np.ndarray, foreground: int, number: int, scale: float
    ) -> list[np.ndarray]:
        box_label = proposals.output_label[rows]
        box_label[foreground:] = 0
        mask_label = np.where(proposals.seg_overlap[rows] < cfg.TRAIN.FG_SEG_THRESH, 0, box_label)
        scaled = proposals.boxes * scale
        assigned = proposals.gt_assignment[rows]
        truth = scaled[: len(proposals.gt_classes)][assigned]
        plain = boxes.encode(scaled[rows], truth).astype(np.float32)
        targets, inside = bbox_targets.per_class(plain, box_label, self.classes)
        self._normalise(targets, proposals.gt_classes[assigned[:foreground]])
        size = cfg.TEST.CFM_INPUT_MASK_SIZE
        resized = masks.resize(torch.from_numpy(proposals.masks[rows]), (size, size)) >= cfg.BINARIZE_THRESH
        mask_targets = proposals.mask_targets[rows, None]
        mask_weight = np.zeros_like(mask_targets)
        mask_weight[:foreground] = 1
        return [
            np.pad(scaled[rows], ((0, 0), (1, 0)), constant_values=number),
            resized[:, None].numpy(),
            box_label[:, None],
            mask_label[:, None],
            targets,
            mask_targets,
            inside,
            (inside > 0).astype(np.float32),
            mask_weight,
        ]

    def _normalise(self, targets: np.ndarray, labels: np.ndarray) -> None:
        """Normalise, in place, the targets of the foreground rows in the columns of their ground truth's class."""
        rows = np.flatnonzero(labels)
        columns = 4 * labels[rows, None] + np.arange(4)
        plain = targets[rows[:, None], columns]
        targets[rows[:, None], columns] = (plain - self._mean[labels[rows]]) / self._deviation[labels[rows]]
