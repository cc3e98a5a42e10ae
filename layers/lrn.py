"""LRN: local response normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from caffe_bridge import schema
from caffe_bridge.errors import LayerError
from caffe_bridge.layers import functional
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


@register("LRN")
class LRN(Layer):
    """x / (k + alpha * mean(x^2))^beta, the mean over `local_size` cells, those beyond the edge counted as 0.

    ACROSS_CHANNELS takes the mean over neighbouring channels, WITHIN_CHANNEL over a square of its own channel, where
    k is 1 whatever the prototxt says.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.lrn_param
        self.size, self.alpha, self.beta = param.local_size, param.alpha, param.beta
        self.within = param.norm_region == schema.LRNParameter.WITHIN_CHANNEL
        self.k = 1.0 if self.within else param.k
        if self.size % 2 == 0:
            raise LayerError(f"local_size must be odd, not {self.size}")

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        if len(bottom_shapes[0]) != 4:
            raise LayerError(f"needs a 4-axis bottom (num, channels, height, width), not {bottom_shapes[0]}")
        return [bottom_shapes[0]]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        if self.within:
            mean = F.avg_pool2d(bottom.square(), self.size, stride=1, padding=self.size // 2)
            return bottom * (self.k + self.alpha * mean).pow(-self.beta)
        # Compilers and exporters know torch's own operations.
        if not torch.compiler.is_compiling() and functional.has_kernel(bottom):
            return functional.lrn(bottom, self.size, self.alpha, self.beta, self.k)
        return functional.lrn_in_torch(bottom, self.size, self.alpha, self.beta, self.k)
