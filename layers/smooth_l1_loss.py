"""SmoothL1Loss of Fast R-CNN and SSD."""

from __future__ import annotations

import math

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers import functional as F
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.softmax_loss import check_first_axes
from caffe_bridge.registry import register


@register("SmoothL1Loss", source="caffe-fast-rcnn")
class SmoothL1Loss(Layer):
    """Smooth L1 loss between predictions and targets [N, ...], divided by N.

    Bottoms: predictions, targets, both of which get gradients; then inside and outside weights, together or not at
    all. With two bottoms and no parameter it is SSD's. See `caffe_bridge.layers.functional.smooth_l1_loss`.
    """

    bottoms = (2, 4)
    auto_tops = True
    is_loss = True
    constants = (2, 3)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.sigma = self.param.smooth_l1_loss_param.sigma
        if len(bottom_shapes) == 3:
            raise LayerError("takes inside and outside weights together: 2 or 4 bottoms, 3 given")

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        check_first_axes(bottom_shapes)
        if len({math.prod(shape) for shape in bottom_shapes}) > 1:
            raise LayerError(f"takes bottoms of one size, got {', '.join(str(tuple(s)) for s in bottom_shapes)}")
        return [()]

    def forward(self, *bottoms: torch.Tensor) -> torch.Tensor:
        return F.smooth_l1_loss(*bottoms, sigma=self.sigma)
