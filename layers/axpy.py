"""Axpy of SENet."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


@register("Axpy", source="SENet")
class Axpy(Layer):
    """a * x + b for a scale a (N, C) or (N, C, 1, 1) per channel, x and b (N, C, ...) (Hu et al., arXiv:1709.01507)."""

    bottoms = (3, 3)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        scale, x, bias = bottom_shapes
        if x != bias or len(x) < 2 or scale[:2] != x[:2] or any(size != 1 for size in scale[2:]):
            raise LayerError(f"takes a (N, C) or (N, C, 1, 1), x and b (N, C, ...), not {scale}, {x} and {bias}")
        return [x]

    def forward(self, scale: torch.Tensor, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(bias, scale.reshape(*x.shape[:2], *[1] * (x.ndim - 2)), x)
