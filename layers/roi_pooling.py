"""ROIPooling of Fast R-CNN, and what the RoI layers read alike."""

from __future__ import annotations

import math
from typing import Any

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers import functional as F
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


def read_pooled_size(param: Any) -> tuple[int, int]:
    """(pooled_h, pooled_w) of a layer's parameter message; LayerError unless both are positive."""
    if not param.pooled_h or not param.pooled_w:
        raise LayerError(f"pooled_h and pooled_w must be positive, got {param.pooled_h} and {param.pooled_w}")
    return param.pooled_h, param.pooled_w


def check_roi_bottoms(bottom_shapes: list[Shape]) -> None:
    """LayerError unless the bottoms are features with four axes and RoIs with five values each."""
    features, rois = bottom_shapes
    if len(features) != 4 or len(rois) < 2 or math.prod(rois[1:]) != 5:
        raise LayerError(f"takes features (N, C, H, W) and RoIs (R, 5), got {tuple(features)} and {tuple(rois)}")


def pooled_shape(bottom_shapes: list[Shape], size: tuple[int, int]) -> Shape:
    """(R, C, *size) for bottoms features and RoIs."""
    check_roi_bottoms(bottom_shapes)
    return (bottom_shapes[1][0], bottom_shapes[0][1], *size)


@register("ROIPooling", source="caffe-fast-rcnn")
class ROIPooling(Layer):
    """Bottoms features [N, C, H, W] and RoIs [R, 5] in scaled-image pixels; top [R, C, pooled_h, pooled_w].

    The maximum of each bin; the RoIs get no gradient. See `caffe_bridge.layers.functional.roi_pooling`.
    """

    bottoms = (2, 2)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.pooled_size = read_pooled_size(self.param.roi_pooling_param)
        self.spatial_scale = self.param.roi_pooling_param.spatial_scale

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [pooled_shape(bottom_shapes, self.pooled_size)]

    def forward(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        return F.roi_pooling(features, rois.flatten(1), self.pooled_size, self.spatial_scale)
