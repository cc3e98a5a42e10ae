"""MNC's data layer: one image at a time, with the boxes and masks of its objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from caffe_bridge import roidb
from caffe_bridge.config import cfg
from caffe_bridge.errors import LayerError
from caffe_bridge.layers import image_feed
from caffe_bridge.layers.base import Shape
from caffe_bridge.layers.image_feed import Draw, ImageFeed, Tops
from caffe_bridge.registry import register_python
from caffe_bridge.scaling import as_blob


@register_python("pylayer.mnc_data_layer", "MNCDataLayer")
class MNCDataLayer(ImageFeed):
    """Images with boxes and masks from a database that is handed over by `set_roidb` and `set_maskdb`.

    Tops: data (1, 3, h, w), the image less cfg.PIXEL_MEANS with its short side scaled to one of cfg.TRAIN.SCALES and
    its long one no longer than MAX_SIZE; im_info (1, 3): h, w, scale; gt_boxes (G, 5): x1, y1, x2, y2 in scaled-image
    pixels, class; and, for MNC, gt_masks (G, largest height, largest width), 0 or 1 in original-image pixels, each in
    the upper left corner; mask_info (G, 2): height and width of each. Without the last two it is Faster R-CNN's.

    `param_str` and random draws as `ImageFeed` has them; each `set_` shuffles.
    Source: MNC's pylayer/mnc_data_layer.py.
    """

    tops = (3, 5)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if len(self.param.top) == 4:
            raise LayerError("takes 3 tops (data, im_info, gt_boxes) or 5 (and gt_masks, mask_info), not 4")
        super().setup(bottom_shapes)
        self._with_masks = len(self.param.top) == 5
        self._roidb: Sequence[Mapping[str, Any]] = ()
        self._maskdb: Sequence[Mapping[str, Any]] = ()

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        data = (1, 3, int(max(cfg.TRAIN.SCALES, default=1)), int(cfg.TRAIN.MAX_SIZE))
        return [data, (1, 3), (1, 4), (1, cfg.MASK_SIZE, cfg.MASK_SIZE), (1, 3)][: len(self.param.top)]

    def set_roidb(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Take the images and boxes (`Dataset.roidb`), and shuffle them.

        Raises:
            LayerError: an entry is incomplete, has no object, or one of a class beyond `num_classes`.
        """
        if not len(entries):
            raise LayerError("the roidb has no entry")
        for entry in entries:
            image_feed.check_entry(entry, self.classes)
            image_feed.check_objects(entry)
        self._roidb, self._maskdb = entries, ()
        self._restart()

    def set_maskdb(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Take the masks that belong to the roidb (`Dataset.maskdb`), and shuffle once more, as the original does.

        Raises:
            LayerError: there is another number of entries than in the roidb, or of masks than of boxes in one.
        """
        if len(entries) != len(self._roidb):
            raise LayerError(
                f"the maskdb has {len(entries)} entries, the roidb {len(self._roidb)}; set the roidb first"
            )
        for boxes, masks in zip(self._roidb, entries):
            if len(masks["gt_masks"]) != len(boxes["boxes"]):
                count = len(masks["gt_masks"])
                raise LayerError(f"{boxes['image']}: has {len(boxes['boxes'])} boxes and {count} masks")
        self._maskdb = entries
        self._restart()

    def _restart(self) -> None:
        self.restart(len(self._roidb), lambda random: roidb.shuffled(self._roidb, random))

    def images_per_batch(self) -> int:
        if not len(self._roidb) or (self._with_masks and not len(self._maskdb)):
            wanted = "set_roidb(imdb.roidb()) and set_maskdb(imdb.maskdb())" if self._with_masks else "set_roidb"
            raise LayerError(f"has no data; hand them over before the first pass: layer.{wanted}")
        if cfg.TRAIN.IMS_PER_BATCH != 1:
            raise LayerError(f"takes one image at a time; TRAIN.IMS_PER_BATCH is {cfg.TRAIN.IMS_PER_BATCH}")
        return 1

    def name_of(self, entry: int) -> str:
        return str(self._roidb[entry]["image"])

    def prepare(self, draw: Draw) -> Tops:
        number = draw.entries[0]
        entry = self._roidb[number]
        size = entry["height"], entry["width"]
        scaled, scale, _ = image_feed.read_scaled(entry["image"], entry["flipped"], draw.target_sizes[0], size)
        objects, gt_boxes = image_feed.truth_of(entry, scale)
        tops = [as_blob([scaled]), np.array([[*scaled.shape[:2], scale]], np.float32), gt_boxes]
        if self._with_masks:
            masks = self._maskdb[number]["gt_masks"]
            tops += _padded([np.asarray(masks[i]) for i in objects])
        return tuple(torch.from_numpy(top) for top in tops)


def _padded(masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Masks as one array [G, largest height, largest width], and their sizes [G, 2], float32."""
    sizes = np.array([mask.shape for mask in masks])
    padded = np.zeros((len(masks), *sizes.max(0)), np.float32)
    for place, mask in zip(padded, masks):
        place[: mask.shape[0], : mask.shape[1]] = mask
    return [padded, sizes.astype(np.float32)]
