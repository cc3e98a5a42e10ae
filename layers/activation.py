"""ReLU, Sigmoid and TanH."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


@register("ReLU")
class ReLU(Layer):
    """max(x, 0) + negative_slope * min(x, 0); the gradient at 0 is the slope."""

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.negative_slope = self.param.relu_param.negative_slope

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(bottom, self.negative_slope) if self.negative_slope else F.relu(bottom)


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
