"""The anchor target layer of MNC and py-faster-rcnn: what the RPN is trained on."""

from __future__ import annotations

import numpy as np
import torch

from caffe_bridge import boxes
from caffe_bridge.config import cfg
from caffe_bridge.errors import LayerError
from caffe_bridge.layers import cascade
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register_python


def label_anchors(overlap: torch.Tensor) -> torch.Tensor:
    """Labels [N] of anchors by their overlap with the ground truth [N, G]: 1 object, 0 background, -1 neither.

    An anchor is an object where it reaches a ground truth's best overlap (ties included, even ties at 0) or
    RPN_POSITIVE_OVERLAP, background below RPN_NEGATIVE_OVERLAP. RPN_CLOBBER_POSITIVES lets background win.
    """
    nearest = overlap.amax(1)
    labels = torch.full_like(nearest, -1)
    background = nearest < cfg.TRAIN.RPN_NEGATIVE_OVERLAP
    labels[background] = 0
    labels[(overlap == overlap.amax(0)).any(1) | (nearest >= cfg.TRAIN.RPN_POSITIVE_OVERLAP)] = 1
    if cfg.TRAIN.RPN_CLOBBER_POSITIVES:
        labels[background] = 0
    return labels


def subsample(labels: torch.Tensor) -> None:
    """Set surplus labels to -1, in place, until RPN_BATCHSIZE remain, at most RPN_FG_FRACTION of them 1.

    Draws from NumPy's global generator and only where there is a surplus, positives first.
    """
    settings = cfg.TRAIN
    limit = int(settings.RPN_FG_FRACTION * settings.RPN_BATCHSIZE)
    for label in (1, 0):
        candidates = (labels == label).nonzero()[:, 0]
        surplus = len(candidates) - max(limit, 0)
        if surplus > 0:
            dropped = np.random.choice(candidates.cpu().numpy(), size=surplus, replace=False)
            labels[torch.from_numpy(dropped).to(labels.device)] = -1
        limit = settings.RPN_BATCHSIZE - len(candidates) + max(surplus, 0)


def example_weights(labels: torch.Tensor) -> torch.Tensor:
    """Weight of each anchor [N] in the regression loss: 0 where its label is -1.

    Uniform when RPN_POSITIVE_WEIGHT is negative; otherwise that much for all positives together, the rest of 1 for all
    negatives.
    """
    weight = cfg.TRAIN.RPN_POSITIVE_WEIGHT
    positive, negative = labels == 1, labels == 0
    if weight < 0:
        counted = (positive | negative).to(labels.dtype)
        return counted / counted.sum().clamp(min=1)
    if not 0 < weight < 1:
        raise LayerError(f"TRAIN.RPN_POSITIVE_WEIGHT is negative or between 0 and 1, not {weight!r}")
    return positive * (weight / positive.sum().clamp(min=1)) + negative * ((1 - weight) / negative.sum().clamp(min=1))


@register_python("rpn.anchor_target_layer", "AnchorTargetLayer")
@register_python("pylayer.anchor_target_layer", "AnchorTargetLayer")
class AnchorTargetLayer(Layer):
    """Labels and regression targets of the anchors of one image.

    Bottoms: a blob (1, any, H, W) that gives the size of the feature map, ground-truth boxes [G, 5] (x1, y1, x2, y2,
    class) in scaled-image pixels, im_info (1, 3) and, for MIX_INDEX, the numbers of the anchors that became foreground
    and background RoIs; they are labelled 1 and 0 after sampling, whatever it decided. py-faster-rcnn's nets give the
    image as a fourth bottom instead, which is not looked at.
    Tops: labels (1, 1, A * H, W), then targets, inside and outside weights (1, 4A, H, W); channel 4a + k is value k of
    anchor a. Targets are not normalised, and exist for every anchor inside the image.
    `param_str`: feat_stride (pixels per cell), allowed_border (pixels an anchor may stick out, 0), scales and ratios
    of the anchors (`cascade.anchors`).
    Source: MNC's pylayer/anchor_target_layer.py, py-faster-rcnn's rpn/anchor_target_layer.py.
    """

    bottoms = (3, None)
    tops = (4, 4)
    constants = Layer.ALL_BOTTOMS

    def setup(self, bottom_shapes: list[Shape]) -> None:
        values = cascade.options(self.param, "feat_stride")
        self.stride = cascade.positive(values, "feat_stride")
        self.border = values.get("allowed_border", 0)
        if not isinstance(self.border, int | float):
            raise LayerError(f"param_str: 'allowed_border' is a number, not {self.border!r}")
        self.anchors = cascade.anchors(values)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        if len(bottom_shapes[0]) != 4 or bottom_shapes[0][0] != 1:
            raise LayerError(f"takes the feature map of one image, (1, C, H, W), not {bottom_shapes[0]}")
        count, (height, width) = len(self.anchors), bottom_shapes[0][2:]
        return [(1, 1, count * height, width), *[(1, 4 * count, height, width)] * 3]

    @torch.no_grad()
    def forward(
        self, scores: torch.Tensor, gt_boxes: torch.Tensor, im_info: torch.Tensor, *mixed: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        shapes = self.top_shapes([tuple(scores.shape)])
        cascade.check_gt_boxes(gt_boxes)
        height, width, _ = cascade.image_info(im_info)
        base = torch.tensor(self.anchors, device=gt_boxes.device)
        anchors = boxes.shifted_anchors(base, scores.shape[2], scores.shape[3], self.stride)
        near, far = anchors[:, :2] >= -self.border, anchors[:, 2:] < anchors.new_tensor([width, height]) + self.border
        inside = (near & far).all(1).nonzero()[:, 0]
        if not len(inside):
            raise LayerError(
                f"no anchor lies inside the image of {width:g} x {height:g} pixels "
                f"({len(anchors)} anchors, stride {self.stride:g}); it is too small or im_info is wrong"
            )
        overlap = boxes.overlaps(anchors[inside], gt_boxes[:, :4])
        labels = anchors.new_full((len(anchors),), -1)
        labels[inside] = label_anchors(overlap)
        subsample(labels)
        if cfg.TRAIN.MIX_INDEX and len(mixed) >= 2:
            self._mix(labels, inside, *mixed[:2])
        targets = anchors.new_zeros(anchors.shape)
        targets[inside] = boxes.encode(anchors[inside], gt_boxes[overlap.argmax(1), :4].to(anchors.dtype))
        inside_weights = (labels == 1)[:, None] * anchors.new_tensor(cfg.TRAIN.RPN_BBOX_INSIDE_WEIGHTS)
        outside_weights = example_weights(labels)[:, None].expand(-1, 4)
        values = (labels[:, None], targets, inside_weights, outside_weights)
        rows = (value.to(gt_boxes.dtype).reshape(*scores.shape[2:], -1).permute(2, 0, 1) for value in values)
        return tuple(row.reshape(shape) for row, shape in zip(rows, shapes))

    def _mix(
        self, labels: torch.Tensor, inside: torch.Tensor, foreground: torch.Tensor, background: torch.Tensor
    ) -> None:
        allowed = torch.zeros_like(labels, dtype=torch.bool)
        allowed[inside] = True
        for label, numbers in ((0, background), (1, foreground)):
            numbers = numbers.flatten().long()
            if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(labels):
                raise LayerError(f"anchor numbers of the RoIs lie outside 0 to {len(labels) - 1}")
            labels[numbers[allowed[numbers]]] = label
