"""ReLU, Sigmoid and TanH."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.sloped import Sloped
from caffe_bridge.registry import register


@register("ReLU")
class ReLU(Layer):
    """max(x, 0) + negative_slope * min(x, 0); the gradient at 0 is the slope.

    In place, Caffe's gradient goes by the sign of the top, which a slope below 0 makes positive; so does this one.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.negative_slope = self.param.relu_param.negative_slope
        self.by_top = self.negative_slope < 0 and list(self.param.bottom) == list(self.param.top)

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        if not self.negative_slope:
            return F.relu(bottom)
        top = F.leaky_relu(bottom, self.negative_slope)
        if self.by_top and bottom.requires_grad:
            top = top.detach()
            return Sloped.apply(bottom, top, torch.where(top > 0, 1, self.negative_slope))
        return top


@register("Sigmoid")
class Sigmoid(Layer):
    """1 / (1 + exp(-x))."""

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(bottom)


@register("TanH")
class TanH(Layer):
    """The hyperbolic tangent."""

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        return torch.tanh(bottom)
