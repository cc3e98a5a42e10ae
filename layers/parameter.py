"""Parameter."""

from __future__ import annotations

import torch

from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


@register("Parameter")
class Parameter(Layer):
    """A learned blob of `shape`, starting at 0, as a top of its own."""

    bottoms = (0, 0)
    shares_data = True

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.add_blob(self.param.parameter_param.shape.dim)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [tuple(self.blobs[0].shape)]

    def forward(self) -> torch.Tensor:
        return self.blobs[0].view_as(self.blobs[0])
