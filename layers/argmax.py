"""ArgMax."""

from __future__ import annotations

import math

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, canonical_axis
from caffe_bridge.registry import register


def top_values(scores: torch.Tensor, k: int, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `k` largest values along an axis, in falling order, and their indices; of equal values the last comes first.

    Both have the scores' shape with `k` at `axis`; indices are int64.
    """
    turned = scores.flip(axis)
    if k == 1:
        values, index = turned.max(axis, keepdim=True)
    else:
        values, index = turned.sort(dim=axis, descending=True, stable=True)
        values, index = values.narrow(axis, 0, k), index.narrow(axis, 0, k)
    return values, scores.shape[axis] - 1 - index


@register("ArgMax")
class ArgMax(Layer):
    """The `top_k` largest scores by falling value; on a tie the larger index comes first. Without a gradient.

    With `axis`, a top of the bottom's shape with top_k at that axis holds indices, or values with `out_max_val`.
    Without, over everything but axis 0: a top (num, 1, top_k) of indices, or (num, 2, top_k) of indices and values,
    filled with 1s up to the bottom's number of axes.
    """

    no_gradient = Layer.ALL_BOTTOMS

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.argmax_param
        self.with_values, self.top_k = param.out_max_val, param.top_k
        self.axis = param.axis if param.HasField("axis") else None
        if self.top_k < 1:
            raise LayerError("top_k must be at least 1")

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shape = bottom_shapes[0]
        axis = canonical_axis(0 if self.axis is None else self.axis, len(shape))
        count = math.prod(shape[1:]) if self.axis is None else shape[axis]
        if self.top_k > count:
            raise LayerError(f"top_k: {self.top_k} is more than the {count} scores there are to choose from")
        if self.axis is not None:
            return [(*shape[:axis], self.top_k, *shape[axis + 1 :])]
        return [(shape[0], 2 if self.with_values else 1, self.top_k, *[1] * (len(shape) - 3))]

    @torch.no_grad()
    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        (shape,) = self.top_shapes([tuple(bottom.shape)])
        if self.axis is not None:
            values, index = top_values(bottom, self.top_k, canonical_axis(self.axis, bottom.ndim))
            return values if self.with_values else index.to(bottom.dtype)
        values, index = top_values(bottom.reshape(shape[0], math.prod(bottom.shape[1:])), self.top_k, 1)
        top = index.to(bottom.dtype)
        if self.with_values:
            top = torch.stack((top, values), 1)
        return top.reshape(shape)
