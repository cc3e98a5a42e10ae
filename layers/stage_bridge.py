"""MNC's stage bridge layer: refined boxes as the RoIs of the next round of stages."""

from __future__ import annotations

from typing import Any

import torch

from caffe_bridge import boxes
from caffe_bridge.config import cfg
from caffe_bridge.errors import LayerError
from caffe_bridge.layers import cascade
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register_python


class _PublishedGradient(torch.autograd.Function):
    """Passes the refined RoIs [K, 5] on; backward is that of the original, which is not the derivative.

    It takes the incoming gradient for one of centre and size, reads the old width and height from the columns
    y1 - batch and x2 - x1, and stops the regression outputs of RoIs that left the image.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rois: torch.Tensor,
        outputs: torch.Tensor,
        refined: torch.Tensor,
        keep: torch.Tensor,
        labels: torch.Tensor,
        inside: torch.Tensor,
        limit: float | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(rois, outputs, keep, labels, inside)
        ctx.limit = limit
        return refined

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rois, outputs, keep, labels, inside = ctx.saved_tensors
        copied = keep < len(rois)
        row, grad = keep[copied], grad[copied, 1:]
        deltas = class_columns(outputs[row], labels[row])
        shift, growth = deltas[:, :2], deltas[:, 2:].exp()
        to_rois = to_outputs = None
        if ctx.needs_input_grad[0]:
            values = torch.cat([torch.zeros_like(grad[:, :1]), grad[:, :2], grad[:, 2:] * (shift + growth)], 1)
            to_rois = torch.zeros_like(rois).index_copy(0, row, values.to(rois.dtype))
        if ctx.needs_input_grad[1]:
            old = rois[row, 2:4] - rois[row, :2]
            values = torch.cat([grad[:, :2] * old, grad[:, 2:] * growth * old], 1)
            values = torch.where(inside[row, None], values, 0)
            if ctx.limit is not None:
                values = values.clamp(-ctx.limit, ctx.limit)
            to_outputs = torch.zeros_like(outputs).view(len(outputs), outputs.shape[1] // 4, 4)
            to_outputs[row, labels[row]] = values.to(outputs.dtype)
            to_outputs = to_outputs.view_as(outputs)
        return to_rois, to_outputs, None, None, None, None, None


def class_columns(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The four regression outputs of each row's class: [n, 4] of [n, 4 * classes]."""
    rows = torch.arange(len(outputs), device=outputs.device)
    return outputs.reshape(len(outputs), outputs.shape[1] // 4, 4)[rows, labels]


@register_python("pylayer.stage_bridge_layer", "StageBridgeLayer")
class StageBridgeLayer(Layer):
    """RoIs moved by the regression outputs of their best class and, in training, the targets for them.

    Bottoms in training: RoIs [n, 5], regression outputs [n, 4 * classes], class probabilities [n, classes],
    ground-truth boxes [G, 5] and gt_masks [G, h, w], im_info, mask sizes [G, 2]; boxes in scaled-image pixels, masks
    in the original image's. At test time: RoIs, regression outputs, probabilities, im_info, and one top, the RoIs.
    Tops in training: RoIs [K, 5] (all, and the ground truth; overlap of BBOX_THRESH and more first), labels [K], mask
    targets and weights, mask descriptions, regression targets, inside and outside weights, as the proposal target
    layer makes them.

    As published, outputs are applied as they are, though they were trained on normalised targets; the best class is
    never the background in training, but may be at test time. `param_str` (training): num_classes, use_clip and
    clip_base (limit each value of the outputs' gradient to +-1 / clip_base).

    Gradients go to the RoIs and the regression outputs in training: the published ones (`_PublishedGradient`), or
    with `cfg.TRAIN.EXACT_GRADIENTS` the derivative of decoding and clipping, at test time too; the choice of class
    and order counts as constant. Source: MNC's pylayer/stage_bridge_layer.py.
    """

    bottoms = (4, 7)
    tops = (1, 8)
    constants = range(2, 7)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        bottoms, tops = {"TRAIN": (7, 8), "TEST": (4, 1)}[self.phase]
        if (len(bottom_shapes), len(self.param.top)) != (bottoms, tops):
            raise LayerError(
                f"in phase {self.phase} takes {bottoms} bottoms and makes {tops} top(s), "
                f"{len(bottom_shapes)} and {len(self.param.top)} given"
            )
        if self.phase == "TRAIN":
            values = cascade.options(self.param, "num_classes")
            self.classes = cascade.class_count(values)
            self.limit = cascade.gradient_limit(values, 64)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        if self.phase == "TEST":
            return [(1, 5)]
        columns, mask = (1, 4 * self.classes), (1, 1, cfg.MASK_SIZE, cfg.MASK_SIZE)
        return [(1, 5), (1, 1), mask, mask, (1, 4), columns, columns, columns]

    def forward(
        self, rois: torch.Tensor, outputs: torch.Tensor, scores: torch.Tensor, *more: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        count, classes = scores.shape
        if rois.shape != (count, 5) or outputs.shape != (count, 4 * classes):
            raise LayerError(
                f"RoIs {tuple(rois.shape)}, regression outputs {tuple(outputs.shape)} and scores {tuple(scores.shape)} "
                "do not fit; (n, 5), (n, 4 * classes) and (n, classes) do"
            )
        cascade.check_numbers(rois=rois, regression_outputs=outputs, scores=scores)
        if self.phase == "TEST":
            return self._test(rois, outputs, scores, *more)
        if classes != self.classes:
            raise LayerError(f"num_classes is {self.classes}, the scores have {classes} columns")
        return self._train(rois, outputs, scores, *more)

    def _test(
        self, rois: torch.Tensor, outputs: torch.Tensor, scores: torch.Tensor, im_info: torch.Tensor
    ) -> torch.Tensor:
        *image_size, _ = cascade.image_info(im_info)
        refined = boxes.decode(rois[:, 1:], class_columns(outputs, scores.argmax(1)))
        refined = torch.nn.functional.pad(boxes.clamp(refined, image_size), (1, 0))
        return refined if cfg.TRAIN.EXACT_GRADIENTS else refined.detach()

    def _train(
        self,
        rois: torch.Tensor,
        outputs: torch.Tensor,
        scores: torch.Tensor,
        gt_boxes: torch.Tensor,
        gt_masks: torch.Tensor,
        im_info: torch.Tensor,
        mask_info: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        cascade.check_gt_boxes(gt_boxes)
        *image_size, _ = cascade.image_info(im_info)
        best = scores[:, 1:].argmax(1) + 1
        deltas = cascade.limited(class_columns(outputs, best), self.limit)
        moved = boxes.decode(rois[:, 1:], deltas.double())
        refined = boxes.clamp(torch.cat([moved, gt_boxes[:, :4].double()]), image_size)
        with torch.no_grad():
            overlap, assigned = boxes.overlaps(refined, gt_boxes[:, :4]).max(1)
            chosen = overlap >= cfg.TRAIN.BBOX_THRESH
            fg, bg = (mask.nonzero()[:, 0] for mask in (chosen, ~chosen))
            keep, foreground = torch.cat([fg, bg]), len(fg)
            truth = assigned[keep]
            labels = cascade.assigned_labels(gt_boxes, truth, foreground, self.classes)
            regression = cascade.box_targets(refined[keep], gt_boxes[truth, :4], labels, self.classes)
            masks = cascade.mask_targets(
                refined[keep], labels, foreground, truth, gt_boxes, gt_masks, mask_info, im_info[0, 2]
            )
        tops = torch.nn.functional.pad(refined[keep], (1, 0)).to(rois.dtype)
        if not cfg.TRAIN.EXACT_GRADIENTS:
            inside = boxes.inside(moved.detach(), image_size)[:, 0]
            tops = _PublishedGradient.apply(rois, outputs, tops.detach(), keep, best, inside, self.limit)
        return (tops, labels, *masks, *regression)
