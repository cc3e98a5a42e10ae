"""Dropout."""

from __future__ import annotations

import torch

from caffe_bridge import randomness
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, eager
from caffe_bridge.registry import register


@register("Dropout")
class Dropout(Layer):
    """In TRAIN, zeroes values with probability `dropout_ratio` and divides the rest by 1 - ratio; in TEST, nothing.

    With `scale_train: false`, a field of MNC's fork, TRAIN only zeroes and TEST multiplies by 1 - ratio.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.ratio = self.param.dropout_param.dropout_ratio
        if not 0 <= self.ratio < 1:
            raise LayerError(f"dropout_ratio must be at least 0 and below 1, not {self.ratio:g}")
        self.scale_train = self.param.dropout_param.scale_train

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        keep = 1 - self.ratio
        if self.phase == "TEST":
            return bottom if self.scale_train else bottom * keep
        return bottom * _draw(bottom, keep, 1 / keep if self.scale_train else 1.0)


@eager
def _draw(like: torch.Tensor, keep: float, scale: float) -> torch.Tensor:
    """`scale` with probability `keep`, else 0. Drawn outside compiled graphs, which know only torch's generator."""
    return torch.empty_like(like).bernoulli_(keep, generator=randomness.generator(like.device)).mul_(scale)
