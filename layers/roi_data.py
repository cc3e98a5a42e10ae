"""py-faster-rcnn's data layer: images with the ground truth for an RPN, or with RoIs sampled from proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from caffe_bridge import bbox_targets, roi_sampling, roidb
from caffe_bridge.config import cfg
from caffe_bridge.errors import LayerError
from caffe_bridge.layers import image_feed
from caffe_bridge.layers.base import Shape
from caffe_bridge.layers.image_feed import Draw, ImageFeed, Tops
from caffe_bridge.registry import register_python
from caffe_bridge.scaling import as_blob

_TARGETS = ("bbox_targets", "bbox_inside_weights", "bbox_outside_weights")


def top_names() -> tuple[str, ...]:
    """What the layer's tops are, by cfg.TRAIN.HAS_RPN and BBOX_REG."""
    if cfg.TRAIN.HAS_RPN:
        return ("data", "im_info", "gt_boxes")
    return ("data", "rois", "labels", *(_TARGETS if cfg.TRAIN.BBOX_REG else ()))


@register_python("roi_data_layer.layer", "RoIDataLayer")
class RoIDataLayer(ImageFeed):
    """Batches of cfg.TRAIN.IMS_PER_BATCH images from a database that is handed over by `set_roidb`.

    Tops: data (n, 3, h, w), images less cfg.PIXEL_MEANS, each with its short side scaled to one of cfg.TRAIN.SCALES
    and its long one no longer than MAX_SIZE, padded with zeros at the right and bottom.

    With cfg.TRAIN.HAS_RPN, which takes one image: im_info (1, 3): h, w, scale; gt_boxes (G, 5): x1, y1, x2, y2 in
    scaled-image pixels, class.

    Without: rois (K, 5): number of the image, x1, y1, x2, y2 in scaled-image pixels; labels (K,); and with
    cfg.TRAIN.BBOX_REG regression targets, inside and outside weights (K, 4 * num_classes). cfg.TRAIN.BATCH_SIZE RoIs,
    shared equally by the images, are drawn by `roi_sampling.draw_rois` from the overlaps in the database.

    `param_str` and random draws as `ImageFeed` has them; `set_roidb` shuffles, and the sampling follows the scales.
    Source: py-faster-rcnn's roi_data_layer/layer.py and minibatch.py. Its USE_PREFETCH is not looked at; `prefetch`
    in `param_str` prepares ahead.

    Attributes:
        takes_proposals: whether RoIs are sampled from proposals.
    """

    tops = (3, 6)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        names = top_names()
        if len(self.param.top) != len(names):
            raise LayerError(
                f"makes {len(names)} tops ({', '.join(names)}) with TRAIN.HAS_RPN {cfg.TRAIN.HAS_RPN} and "
                f"TRAIN.BBOX_REG {cfg.TRAIN.BBOX_REG}; {len(self.param.top)} are named. "
                'caffe_bridge.config.use("py_faster_rcnn") loads py-faster-rcnn\'s defaults'
            )
        super().setup(bottom_shapes)
        self.takes_proposals, self._with_targets = names[1] == "rois", names[-1] in _TARGETS
        self._roidb: Sequence[Mapping[str, Any]] = ()

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        largest = int(max(cfg.TRAIN.SCALES, default=1)), int(cfg.TRAIN.MAX_SIZE)
        data: Shape = (super().images_per_batch(), 3, *largest)
        if not self.takes_proposals:
            return [data, (1, 3), (1, 4)]
        columns = (1, 4 * self.classes)
        return [data, (1, 5), (1,), columns, columns, columns][: len(self.param.top)]

    def set_roidb(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Take the images and boxes, and shuffle them.

        Entries are `Dataset.roidb`'s for an RPN. Otherwise they have proposals (`roidb.build`) and, for targets, went
        through `roidb.add_regression_targets`.

        Raises:
            LayerError: an entry is incomplete, has no object where an RPN needs one, or a class beyond `num_classes`.
        """
        if not len(entries):
            raise LayerError("the roidb has no entry")
        targets = _TARGETS[:1] if self._with_targets else ()
        more = ("max_overlaps", "max_classes", *targets) if self.takes_proposals else ()
        for entry in entries:
            image_feed.check_entry(entry, self.classes, *more)
            if not self.takes_proposals:
                image_feed.check_objects(entry)
            elif len(entry["max_classes"]) and np.max(entry["max_classes"]) >= self.classes:
                raise LayerError(f"{entry['image']}: has proposals of a class beyond num_classes {self.classes}")
        self._roidb = entries
        self.restart(len(entries), lambda random: roidb.shuffled(entries, random))

    def images_per_batch(self) -> int:
        if not len(self._roidb):
            raise LayerError("has no data; hand them over before the first pass: layer.set_roidb(...)")
        images = super().images_per_batch()
        if not self.takes_proposals and images != 1:
            raise LayerError(f"takes one image at a time with TRAIN.HAS_RPN; TRAIN.IMS_PER_BATCH is {images}")
        if cfg.TRAIN.BATCH_SIZE % min(images, len(self._roidb)):
            raise LayerError(f"TRAIN.BATCH_SIZE {cfg.TRAIN.BATCH_SIZE} cannot be shared by {images} images")
        return images

    def name_of(self, entry: int) -> str:
        return str(self._roidb[entry]["image"])

    def prepare(self, draw: Draw) -> Tops:
        entries = [self._roidb[number] for number in draw.entries]
        drawn = self._draw_rois(entries, draw.random()) if self.takes_proposals else None
        read = [
            image_feed.read_scaled(entry["image"], entry["flipped"], target_size, (entry["height"], entry["width"]))
            for entry, target_size in zip(entries, draw.target_sizes)
        ]
        images, scales, _ = zip(*read)
        data = as_blob(images)
        if drawn is None:
            _, gt_boxes = image_feed.truth_of(entries[0], scales[0])
            tops = [data, np.array([[*data.shape[2:], scales[0]]], np.float32), gt_boxes]
        else:
            tops = [data, *self._roi_tops(entries, scales, drawn)]
        return tuple(torch.from_numpy(top) for top in tops)

    def _draw_rois(self, entries: Sequence[Mapping[str, Any]], random: Any) -> list[tuple[np.ndarray, int]]:
        share = cfg.TRAIN.BATCH_SIZE // len(entries)
        drawn = [roi_sampling.draw_rois(np.asarray(entry["max_overlaps"]), share, random) for entry in entries]
        if not any(len(rows) for rows, _ in drawn):
            raise LayerError("has no RoI that TRAIN.FG_THRESH or TRAIN.BG_THRESH_LO and _HI allow")
        return drawn

    def _roi_tops(
        self, entries: Sequence[Mapping[str, Any]], scales: Sequence[float], drawn: Sequence[tuple[np.ndarray, int]]
    ) -> list[np.ndarray]:
        rois, labels, targets = [], [], []
        for number, (entry, scale, (rows, foreground)) in enumerate(zip(entries, scales, drawn)):
            boxes = np.asarray(entry["boxes"], np.float64)[rows] * scale
            rois.append(np.pad(boxes, ((0, 0), (1, 0)), constant_values=number))
            of_image = np.asarray(entry["max_classes"])[rows].astype(np.float32)
            of_image[foreground:] = 0
            labels.append(of_image)
            if self._with_targets:
                targets.append(np.asarray(entry["bbox_targets"], np.float32)[rows])
        tops = [np.concatenate(rois).astype(np.float32), np.concatenate(labels)]
        if self._with_targets:
            rows = np.concatenate(targets)
            spread, inside = bbox_targets.per_class(rows[:, 1:], rows[:, 0], self.classes)
            tops += [spread, inside, (inside > 0).astype(np.float32)]
        return tops
