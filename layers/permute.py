"""Permute of SSD."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


@register("Permute", source="SSD")
class Permute(Layer):
    """Reorders the axes: the top's axis i is the bottom's axis order[i].

    Axes that are not listed follow in rising order. An order that changes nothing shares the bottom's memory.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.ndim = len(bottom_shapes[0])
        given = list(self.param.permute_param.order)
        if len(set(given)) < len(given) or any(axis >= self.ndim for axis in given):
            raise LayerError(f"order {given} must name different axes below {self.ndim}")
        self.order = given + [axis for axis in range(self.ndim) if axis not in given]
        self.shares_data = self.order == list(range(self.ndim))  # type: ignore[misc]

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shape = bottom_shapes[0]
        if len(shape) != self.ndim:
            raise LayerError(f"the bottom had {self.ndim} axes at set-up and has {len(shape)} now")
        return [tuple(shape[axis] for axis in self.order)]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        return bottom.permute(self.order)
