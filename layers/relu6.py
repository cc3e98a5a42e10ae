"""ReLU6 of MobileNet-YOLO."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


@register("ReLU6", source="MobileNet-YOLO")
class ReLU6(Layer):
    """max(x, 0) + negative_slope * min(x, 0), at most 6; the gradient is the slope at 0 and 0 from 6 on."""

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.negative_slope = self.param.relu6_param.negative_slope

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        if not self.negative_slope:
            return F.relu6(bottom)
        return torch.where(bottom >= 6, 6, F.leaky_relu(bottom, self.negative_slope))
