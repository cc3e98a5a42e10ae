"""Concat."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, canonical_axis
from caffe_bridge.registry import register


@register("Concat")
class Concat(Layer):
    """Bottoms joined along `axis` (or the older `concat_dim`); of a single one, the top is a view."""

    bottoms = (1, None)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.concat_param
        if param.HasField("axis") and param.HasField("concat_dim"):
            raise LayerError("give axis or concat_dim, not both")
        self.axis = param.concat_dim if param.HasField("concat_dim") else param.axis
        self.shares_data = len(bottom_shapes) == 1  # type: ignore[misc]

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        first = bottom_shapes[0]
        axis = canonical_axis(self.axis, len(first))
        for shape in bottom_shapes[1:]:
            if len(shape) != len(first) or shape[:axis] + shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
                raise LayerError(f"bottoms must agree on every axis but {axis}: {shape} does not go with {first}")
        return [(*first[:axis], sum(shape[axis] for shape in bottom_shapes), *first[axis + 1 :])]

    def forward(self, *bottoms: torch.Tensor) -> torch.Tensor:
        return torch.cat(bottoms, self.axis) if len(bottoms) > 1 else bottoms[0].view_as(bottoms[0])
