"""SmoothL1Loss of Fast R-CNN, SSD and R-FCN."""

from __future__ import annotations

import math
from typing import Any

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers import functional as F
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.softmax_loss import check_first_axes, read_normalization
from caffe_bridge.registry import register


class _PublishedGradient(torch.autograd.Function):
    """weights * (prediction - target), with R-FCN's gradient: as if the weights were ones."""

    @staticmethod
    def forward(ctx: Any, prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return weights * (prediction - target)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grad, -grad if ctx.needs_input_grad[1] else None, None


@register("SmoothL1Loss", source="caffe-fast-rcnn")
class SmoothL1Loss(Layer):
    """Smooth L1 loss between predictions and targets [N, ...], both of which get gradients.

    Fast R-CNN's takes inside and outside weights, together or not at all, and is divided by N. With two bottoms and no
    parameter it is SSD's. See `caffe_bridge.layers.functional.smooth_l1_loss`.

    With three bottoms, or with two and a second top or a loss_param, it is R-FCN's: the third bottom are inside
    weights, which the gradient leaves out (they are 0 or 1); the sum is divided as loss_param.normalization says, by
    N * H * W by default; a second top has the sum over the channels of each position's errors, (N, 1, H, W), without
    a gradient.
    """

    bottoms = (2, 4)
    tops = (1, 2)
    auto_tops = True
    is_loss = True
    constants = (2, 3)  # the weights

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.sigma = self.param.smooth_l1_loss_param.sigma
        loss = self.param.loss_param
        if len(bottom_shapes) == 4 and len(self.param.top) > 1:
            raise LayerError("has a second top with two or three bottoms only, as R-FCN's layer")
        self.with_errors = len(self.param.top) > 1
        named = self.with_errors or self.param.HasField("loss_param")
        self.normalized = len(bottom_shapes) == 3 or (len(bottom_shapes) == 2 and named)
        self.normalization, self.fixed = read_normalization(loss), loss.pre_fixed_normalizer

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        check_first_axes(bottom_shapes)
        if len({math.prod(shape) for shape in bottom_shapes}) > 1:
            raise LayerError(f"takes bottoms of one size, got {', '.join(str(tuple(s)) for s in bottom_shapes)}")
        if not self.normalized:
            return [()]
        if not 2 <= len(bottom_shapes[0]) <= 4:
            raise LayerError(f"takes predictions with two to four axes, not {tuple(bottom_shapes[0])}")
        images, _, height, width = (*bottom_shapes[0], 1, 1)[:4]
        return [(), (images, 1, height, width)][: len(self.param.top)]

    def forward(
        self, prediction: torch.Tensor, target: torch.Tensor, *weights: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        if not self.normalized:
            inside, outside = weights or (None, None)
            return F.smooth_l1_loss(prediction, target, inside, outside, sigma=self.sigma)
        target = target.view_as(prediction)
        difference = prediction - target
        if weights:
            difference = _PublishedGradient.apply(prediction, target, weights[0].view_as(prediction))
        errors = torch.nn.functional.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")
        images, _, height, width = (*prediction.shape, 1, 1)[:4]
        positions = images * height * width
        divisors = {"FULL": positions, "VALID": positions, "BATCH_SIZE": images, "PRE_FIXED": self.fixed, "NONE": 1}
        loss = errors.sum() / max(divisors[self.normalization], 1)
        each = errors.detach().sum(1).reshape(images, 1, height, width)
        return (loss, each) if self.with_errors else loss
