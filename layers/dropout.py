"""Dropout."""

from __future__ import annotations

import torch

from caffe_bridge import randomness
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


@register("Dropout")
class Dropout(Layer):
    """In TRAIN, zeroes values with probability `dropout_ratio` and divides the rest by 1 - ratio; in TEST, nothing."""

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.ratio = self.param.dropout_param.dropout_ratio
        if not 0 <= self.ratio < 1:
            raise LayerError(f"dropout_ratio must be at least 0 and below 1, not {self.ratio:g}")

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        if self.phase == "TEST":
            return bottom
        mask = torch.empty_like(bottom).bernoulli_(1 - self.ratio, generator=randomness.generator(bottom.device))
        return bottom * mask.mul_(1 / (1 - self.ratio))
