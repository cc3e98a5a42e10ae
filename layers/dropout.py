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
        return bottom * _draw(bottom, 1 - self.ratio)


@torch.compiler.disable
def _draw(like: torch.Tensor, keep: float) -> torch.Tensor:
    """1 / keep with probability `keep`, else 0. Drawn outside compiled graphs, which know only torch's generator."""
    return torch.empty_like(like).bernoulli_(keep, generator=randomness.generator(like.device)).mul_(1 / keep)
