"""PSROIPooling, the position-sensitive pooling of R-FCN."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers import functional as F
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.roi_pooling import pooled_shape
from caffe_bridge.registry import register


@register("PSROIPooling", source="R-FCN")
class PSROIPooling(Layer):
    """Bottoms score maps [N, output_dim * group_size**2, H, W] and RoIs [R, 5]; top [R, output_dim, group, group].

    The RoIs get no gradient. See `caffe_bridge.layers.functional.psroi_pooling`.
    """

    bottoms = (2, 2)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.psroi_pooling_param
        self.output_dim, self.group_size, self.spatial_scale = param.output_dim, param.group_size, param.spatial_scale
        if min(self.output_dim, self.group_size, self.spatial_scale) <= 0:
            raise LayerError(
                "output_dim, group_size and spatial_scale must be positive, "
                f"got {self.output_dim}, {self.group_size} and {self.spatial_scale:g}"
            )

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        count, channels, *size = pooled_shape(bottom_shapes, (self.group_size, self.group_size))
        if channels != self.output_dim * self.group_size**2:
            raise LayerError(
                f"output_dim {self.output_dim} and group_size {self.group_size} take "
                f"{self.output_dim * self.group_size**2} channels, the features have {channels}"
            )
        return [(count, self.output_dim, *size)]

    def forward(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        return F.psroi_pooling(features, rois.flatten(1), self.output_dim, self.group_size, self.spatial_scale)
