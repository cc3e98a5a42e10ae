"""MNC's mask layer: predicted masks as input of the classification stage, with labels by their overlap."""

from __future__ import annotations

import torch

from caffe_bridge import masks
from caffe_bridge.config import cfg
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register_python


@register_python("pylayer.mask_layer", "MaskLayer")
class MaskLayer(Layer):
    """Predicted masks [n, MASK_SIZE**2] as images [n, 1, MASK_SIZE, MASK_SIZE] and, in training, their labels [n, 1].

    Bottoms in training: masks after the sigmoid, gt_masks [G, h, w], mask descriptions [n, 12] of the proposal target
    or stage bridge layer. A mask keeps its RoI's class where its overlap with the ground-truth mask, both binary and
    in original-image pixels, reaches TRAIN.FG_SEG_THRESH; otherwise it is background, 0.

    As published, masks labelled 0 pass no gradient on; with `cfg.TRAIN.EXACT_GRADIENTS` all do.
    Source: MNC's pylayer/mask_layer.py.
    """

    bottoms = (1, 3)
    tops = (1, 2)
    constants = (1, 2)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if self.phase == "TRAIN" and len(bottom_shapes) != 3:
            raise LayerError(f"takes masks, gt_masks and their descriptions in training, {len(bottom_shapes)} given")
        if self.phase == "TEST" and len(self.param.top) != 1:
            raise LayerError("makes labels, its second top, in training only")

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [(1, 1, cfg.MASK_SIZE, cfg.MASK_SIZE), (1, 1)][: len(self.param.top)]

    def forward(self, predicted: torch.Tensor, *truth: torch.Tensor) -> tuple[torch.Tensor, ...]:
        size = cfg.MASK_SIZE
        if predicted[:1].numel() != size * size:
            raise LayerError(f"with cfg.MASK_SIZE {size} masks have {size * size} values, not {predicted[:1].numel()}")
        images = predicted.reshape(-1, 1, size, size)
        if self.phase == "TEST":
            return (images,)
        with torch.no_grad():
            labels = self._labels(images[:, 0], *truth)
        if not cfg.TRAIN.EXACT_GRADIENTS:
            images = torch.where((labels > 0)[:, :, None, None], images, images.detach())
        return (images, labels)[: len(self.param.top)]

    def _labels(self, predicted: torch.Tensor, gt_masks: torch.Tensor, info: torch.Tensor) -> torch.Tensor:
        if gt_masks.ndim != 3 or tuple(info.shape) != (len(predicted), 12):
            raise LayerError(
                f"{len(predicted)} masks come with descriptions of shape {tuple(info.shape)} and ground truth of "
                f"shape {tuple(gt_masks.shape)}; (n, 12) and (G, h, w) are needed"
            )
        labels = info.new_zeros(len(info), 1)
        rows = (info[:, 0] != -1).nonzero()[:, 0]
        if len(rows):
            placed = info[rows].round().long()
            index, sizes, boxes, gt_boxes = placed[:, 0], placed[:, 1:3], placed[:, 4:8], placed[:, 8:]
            if not 0 <= int(index.min()) <= int(index.max()) < len(gt_masks):
                raise LayerError(f"mask descriptions name ground truth outside 0 to {len(gt_masks) - 1}")
            overlap = masks.iou(predicted[rows], boxes, gt_masks, index, sizes, gt_boxes, cfg.BINARIZE_THRESH)
            labels[rows, 0] = torch.where(overlap >= cfg.TRAIN.FG_SEG_THRESH, info[rows, 3], 0)
        return labels
