"""BatchReindex."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.indices import read_indices
from caffe_bridge.registry import register


@register("BatchReindex")
class BatchReindex(Layer):
    """The first bottom's items, chosen, repeated and ordered by the second's indices.

    Bottoms: (num, ...), and (rows,) indices into num. Top: (rows, ...). An item used several times gets the sum of the
    gradients.
    """

    bottoms = (2, 2)
    no_gradient = (1,)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        items, index = bottom_shapes
        if len(index) != 1:
            raise LayerError(f"indices must have one axis, not shape {index}")
        if not items:
            raise LayerError("needs items to choose from, the first bottom is a scalar")
        return [(*index, *items[1:])]

    def forward(self, items: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return items[read_indices(index, items.shape[0])]
