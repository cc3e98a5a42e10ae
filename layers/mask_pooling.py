"""MaskPooling of MNC's Caffe fork."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers import functional as F
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


@register("MaskPooling", source="caffe-mnc")
class MaskPooling(Layer):
    """Bottoms features [N, C, H, W] and masks [N, 1, H, W]; top their product, the mask shared by all channels."""

    bottoms = (2, 2)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        features, masks = bottom_shapes
        if len(features) != 4 or masks != (features[0], 1, *features[2:]):
            raise LayerError(f"features (N, C, H, W) take masks (N, 1, H, W), got {tuple(features)} and {tuple(masks)}")
        return [features]

    def forward(self, features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        return F.mask_pooling(features, masks)
