"""py-faster-rcnn's proposal target layer: the RoIs the detector is trained on."""

from __future__ import annotations

import torch

from caffe_bridge import boxes, roi_sampling
from caffe_bridge.config import cfg
from caffe_bridge.errors import LayerError
from caffe_bridge.layers import cascade
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register_python


@register_python("rpn.proposal_target_layer", "ProposalTargetLayer")
class ProposalTargetLayer(Layer):
    """A sample of the proposals and ground-truth boxes of one image, with classes and targets.

    Bottoms: RoIs [n, 5], ground-truth boxes [G, 5] (x1, y1, x2, y2, class), both in scaled-image pixels.
    Tops: RoIs [K, 5], labels [K], regression targets, inside and outside weights [K, 4 * num_classes]; the foreground
    first. K is cfg.TRAIN.BATCH_SIZE, whatever IMS_PER_BATCH is, or less where candidates are few.
    `param_str`: num_classes.

    RoIs are drawn by `roi_sampling.draw_rois` and stay in the order of the draw. Nothing gets a gradient, unlike with
    MNC's layer of the same name. Source: py-faster-rcnn's rpn/proposal_target_layer.py.
    """

    bottoms = (2, 2)
    tops = (5, 5)
    constants = Layer.ALL_BOTTOMS

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.classes = cascade.class_count(cascade.options(self.param, "num_classes"))

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        columns = (1, 4 * self.classes)
        return [(1, 5), (1, 1), columns, columns, columns]

    @torch.no_grad()
    def forward(self, rois: torch.Tensor, gt_boxes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cascade.check_gt_boxes(gt_boxes)
        candidates = torch.cat([rois, torch.nn.functional.pad(gt_boxes[:, :4], (1, 0))])
        if bool(candidates[:, 0].any()):
            raise LayerError("takes the RoIs of one image; some have a batch index other than 0")
        overlap, assigned = boxes.overlaps(candidates[:, 1:], gt_boxes[:, :4]).max(1)
        drawn, foreground = roi_sampling.draw_rois(overlap.cpu().numpy(), cfg.TRAIN.BATCH_SIZE)
        if not len(drawn):
            raise LayerError("no RoI has an overlap that TRAIN.FG_THRESH or TRAIN.BG_THRESH_LO and _HI allow")
        keep = torch.from_numpy(drawn).to(rois.device)
        sampled, assigned = candidates[keep], assigned[keep]
        labels = cascade.assigned_labels(gt_boxes, assigned, foreground, self.classes)
        targets = cascade.box_targets(sampled[:, 1:], gt_boxes[assigned, :4], labels, self.classes)
        return (sampled, labels, *targets)
