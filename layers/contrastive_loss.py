"""ContrastiveLoss."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.softmax_loss import check_first_axes
from caffe_bridge.registry import register


class _ContrastiveLoss(torch.autograd.Function):
    """The sum over pairs of differences (num, channels), with Caffe's gradient: divided by distance + 1e-4."""

    @staticmethod
    def forward(ctx: Any, difference: torch.Tensor, similar: torch.Tensor, margin: float, legacy: bool) -> torch.Tensor:
        squared = difference.square().sum(1)
        distance = squared if legacy else squared.sqrt()
        lacking = F.relu(margin - distance)
        ctx.save_for_backward(difference, similar, distance, lacking)
        ctx.legacy = legacy
        return torch.where(similar, squared, lacking if legacy else lacking.square()).sum()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        difference, similar, distance, lacking = ctx.saved_tensors
        push = (lacking > 0).to(grad.dtype) if ctx.legacy else lacking / (distance + 1e-4)
        return difference * (torch.where(similar, 1, -push) * (2 * grad)).unsqueeze(1), None, None, None


@register("ContrastiveLoss")
class ContrastiveLoss(Layer):
    """Draws similar pairs together and pushes others apart until `margin` (Hadsell et al., 2006).

    Half the mean over pairs of d^2 if similar, else max(margin - d, 0)^2, or max(margin - d^2, 0) with
    `legacy_version`; d is the pair's Euclidean distance. Bottoms: (num, channels) twice, and a label per pair, 0 for
    dissimilar. The gradient of a dissimilar pair divides by d + 1e-4, where the derivative has d.
    """

    bottoms = (3, 3)
    auto_tops = True
    is_loss = True
    no_gradient = (2,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.contrastive_loss_param
        self.margin, self.legacy = param.margin, param.legacy_version

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        check_first_axes(bottom_shapes)
        first, second, labels = bottom_shapes
        if first[1:2] != second[1:2] or math.prod(first[2:]) != 1 or math.prod(second[2:]) != 1:
            raise LayerError(f"pairs must have shape (num, channels) alike, not {first} and {second}")
        if math.prod(labels) != first[0]:
            raise LayerError(f"needs one label per pair ({first[0]}), not {math.prod(labels)}")
        return [()]

    def forward(self, first: torch.Tensor, second: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        difference = first.flatten(1) - second.flatten(1) if first.ndim > 1 else (first - second).unsqueeze(1)
        similar = labels.flatten().trunc() != 0
        return _ContrastiveLoss.apply(difference, similar, self.margin, self.legacy) / (2 * first.shape[0])
