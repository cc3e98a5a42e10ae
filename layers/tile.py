"""Tile."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, canonical_axis
from caffe_bridge.registry import register


@register("Tile")
class Tile(Layer):
    """The bottom repeated `tiles` times along `axis`."""

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.tile_param
        self.axis, self.tiles = param.axis, param.tiles
        if self.tiles < 1:
            raise LayerError("tiles must be given and above 0")

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shape = bottom_shapes[0]
        axis = canonical_axis(self.axis, len(shape))
        return [(*shape[:axis], shape[axis] * self.tiles, *shape[axis + 1 :])]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        axis = canonical_axis(self.axis, bottom.ndim)
        return bottom.repeat(*[self.tiles if i == axis else 1 for i in range(bottom.ndim)])
