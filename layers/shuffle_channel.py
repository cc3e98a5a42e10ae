"""ShuffleChannel of ShuffleNet."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


@register("ShuffleChannel", source="ShuffleNet")
class ShuffleChannel(Layer):
    """Deals the channels of `group` groups out in turn (Zhang et al., arXiv:1707.01083).

    Of g groups of n channels, channel i * n + j goes to j * g + i. The top has four axes, whatever the bottom has.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.group = self.param.shuffle_channel_param.group
        if not self.group:
            raise LayerError("group must be above 0")

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shape = bottom_shapes[0]
        if not 2 <= len(shape) <= 4:
            raise LayerError(f"takes a bottom with two to four axes, the second being channels, not {tuple(shape)}")
        if shape[1] % self.group:
            raise LayerError(f"group: {self.group} must divide the {shape[1]} channels")
        return [(*shape, *[1] * (4 - len(shape)))]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        images, channels, *size = bottom.shape
        groups = bottom.reshape(images, self.group, channels // self.group, *size)
        return groups.transpose(1, 2).reshape(images, channels, *size, *[1] * (4 - bottom.ndim))
