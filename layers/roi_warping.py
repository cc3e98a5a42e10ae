"""ROIWarping, the differentiable cropping of MNC."""

from __future__ import annotations

import torch

from caffe_bridge.config import cfg
from caffe_bridge.layers import functional as F
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.functional.roi_warping import Gradient
from caffe_bridge.layers.roi_pooling import pooled_shape, read_pooled_size
from caffe_bridge.registry import register


@register("ROIWarping", source="caffe-mnc")
class ROIWarping(Layer):
    """Bottoms features [N, C, H, W] and RoIs [R, 5] in scaled-image pixels; top [R, C, pooled_h, pooled_w].

    Both bottoms get gradients: the fork's, or the derivatives where `cfg.TRAIN.EXACT_GRADIENTS` is set. See
    `caffe_bridge.layers.functional.roi_warping`.
    """

    bottoms = (2, 2)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.pooled_size = read_pooled_size(self.param.roi_warping_param)
        self.spatial_scale = self.param.roi_warping_param.spatial_scale

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [pooled_shape(bottom_shapes, self.pooled_size)]

    def forward(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        flavour: Gradient = "exact" if cfg.TRAIN.EXACT_GRADIENTS else "published"
        return F.roi_warping(features, rois.flatten(1), self.pooled_size, self.spatial_scale, flavour)
