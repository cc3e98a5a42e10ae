"""PReLU."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from caffe_bridge import schema
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


@register("PReLU")
class PReLU(Layer):
    """max(x, 0) + slope * min(x, 0) with a learned slope, whose gradient counts x up to and with 0 (He et al., 2015).

    Blob: slope (channels,), channels being axis 1, or a scalar with `channel_shared`; starts at 0.25 unless `filler`
    says otherwise.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.prelu_param
        self.shared = param.channel_shared
        self._check_axes(bottom_shapes[0])
        self.channels = bottom_shapes[0][1]
        quarter = schema.FillerParameter(type="constant", value=0.25)
        self.add_blob(() if self.shared else (self.channels,), param.filler if param.HasField("filler") else quarter)

    @staticmethod
    def _check_axes(shape: Shape) -> None:
        if len(shape) < 2:
            raise LayerError(f"needs at least two axes, the second being channels; the bottom's shape is {shape}")

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        self._check_axes(bottom_shapes[0])
        if not self.shared and bottom_shapes[0][1] != self.channels:
            raise LayerError(f"has slopes for {self.channels} channels, the bottom has {bottom_shapes[0][1]}")
        return [bottom_shapes[0]]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        return F.prelu(bottom, self.blobs[0].reshape(-1))
