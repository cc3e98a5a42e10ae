"""MaskResize of MNC's Caffe fork."""

from __future__ import annotations

import torch

from caffe_bridge.config import cfg
from caffe_bridge.errors import LayerError
from caffe_bridge.layers import functional as F
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


@register("MaskResize", source="caffe-mnc")
class MaskResize(Layer):
    """Bottom masks [N, C, H, W], top [N, C, output_height, output_width], resized bilinearly.

    The gradient is the fork's, or the derivative where `cfg.TRAIN.EXACT_GRADIENTS` is set. See
    `caffe_bridge.layers.functional.mask_resize`.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.mask_resize_param
        self.size = (param.output_height, param.output_width)
        if not all(self.size):
            raise LayerError(f"output_height and output_width must be positive, got {self.size[0]} and {self.size[1]}")

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        if len(bottom_shapes[0]) != 4:
            raise LayerError(f"takes masks (N, C, H, W), got {bottom_shapes[0]}")
        return [(*bottom_shapes[0][:2], *self.size)]

    def forward(self, masks: torch.Tensor) -> torch.Tensor:
        return F.mask_resize(masks, self.size, "exact" if cfg.TRAIN.EXACT_GRADIENTS else "published")
