"""SPP."""

from __future__ import annotations

import math

import torch

from caffe_bridge import schema
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.pooling import Windows, average_pool, max_pool, stochastic_pool
from caffe_bridge.registry import register


def pyramid_windows(height: int, size: tuple[int, int]) -> list[Windows]:
    """The pooling windows of each level: 2^level bins along both sides of an image of `size` (height, width).

    Raises:
        LayerError: a side that a level's bins do not fit, since Caffe's padding would be as wide as its windows.
    """
    levels = []
    for level in range(height):
        bins = 1 << level
        kernel = (-(-size[0] // bins), -(-size[1] // bins))
        pad = ((kernel[0] * bins - size[0] + 1) // 2, (kernel[1] * bins - size[1] + 1) // 2)
        if any(p >= k for p, k in zip(pad, kernel)):
            raise LayerError(f"pyramid level {level} puts {bins} bins along each side, too many for an image of {size}")
        levels.append(Windows(kernel, kernel, pad))
    return levels


@register("SPP")
class SPP(Layer):
    """Spatial pyramid pooling (He et al., 2014): level l of `pyramid_height` pools 2^l x 2^l bins over the image.

    Bottom (num, channels, height, width). Top (num, features), the levels' outputs one after another; (num, channels,
    1, 1) for a pyramid of one level.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.spp_param
        self.height = param.pyramid_height
        self.method = schema.SPPParameter.PoolMethod.Name(param.pool)
        if not self.height:
            raise LayerError("pyramid_height must be given and above 0")

    def _windows(self, shape: Shape) -> list[Windows]:
        if len(shape) != 4 or 0 in shape[2:]:
            raise LayerError(f"needs a bottom (num, channels, height, width) with cells in it, not shape {shape}")
        levels = pyramid_windows(self.height, (shape[2], shape[3]))
        if self.method == "STOCHASTIC" and any(any(windows.pad) for windows in levels):
            raise LayerError(f"stochastic pooling takes no padding, so the bins must divide the image: {shape[2:]}")
        return levels

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shape = bottom_shapes[0]
        sizes = [windows.output_size((shape[2], shape[3])) for windows in self._windows(shape)]
        if self.height == 1:
            return [(*shape[:2], *sizes[0])]
        return [(shape[0], sum(shape[1] * math.prod(size) for size in sizes))]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        levels = [self._pool(bottom, windows) for windows in self._windows(tuple(bottom.shape))]
        return torch.cat([level.flatten(1) for level in levels], 1) if self.height > 1 else levels[0]

    def _pool(self, bottom: torch.Tensor, windows: Windows) -> torch.Tensor:
        if self.method == "MAX":
            return max_pool(bottom, windows)
        if self.method == "AVE":
            return average_pool(bottom, windows)
        return stochastic_pool(bottom, windows, draw=self.phase == "TRAIN")
