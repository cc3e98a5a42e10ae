"""Softmax."""

from __future__ import annotations

import torch

from caffe_bridge.layers.base import Layer, Shape, canonical_axis
from caffe_bridge.registry import register


@register("Softmax")
class Softmax(Layer):
    """exp(x) over its sum along `axis` (1 by default)."""

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.axis = self.param.softmax_param.axis

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        canonical_axis(self.axis, len(bottom_shapes[0]))
        return [bottom_shapes[0]]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        return bottom.softmax(self.axis)
