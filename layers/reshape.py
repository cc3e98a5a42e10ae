"""Layers that look at the same data in another shape: Reshape, Flatten and Split."""

from __future__ import annotations

import math
from typing import Any

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, canonical_axis
from caffe_bridge.registry import register


def refuse_in_place(param: Any) -> None:
    """LayerError when a top has the name of the first bottom."""
    if param.bottom and param.bottom[0] in param.top:
        raise LayerError(f"does not work in place: give the top a name other than '{param.bottom[0]}'")


@register("Reshape")
class Reshape(Layer):
    """`num_axes` axes from `axis` on (all, by default) replaced by shape's dims.

    A dim of 0 keeps the bottom's dimension at that place, one dim of -1 is whatever is left. A negative `axis` counts
    from one past the last, so -1 appends.
    """

    shares_data = True

    def setup(self, bottom_shapes: list[Shape]) -> None:
        refuse_in_place(self.param)
        param = self.param.reshape_param
        self.axis, self.num_axes = param.axis, param.num_axes
        self.dims = list(param.shape.dim)
        if self.dims.count(-1) > 1 or any(dim < -1 for dim in self.dims):
            raise LayerError(f"shape may have one -1 and no other negative dim, not {self.dims}")

    def _reshaped(self, shape: Shape) -> Shape:
        start = self.axis if self.axis >= 0 else len(shape) + self.axis + 1
        if not 0 <= start <= len(shape):
            raise LayerError(f"axis {self.axis} is out of range for a {len(shape)}-axis bottom")
        end = len(shape) if self.num_axes == -1 else start + self.num_axes
        if not start <= end <= len(shape):
            raise LayerError(f"num_axes: {self.num_axes} from axis {start} goes beyond a {len(shape)}-axis bottom")
        copied = [start + i for i, dim in enumerate(self.dims) if dim == 0]
        if copied and copied[-1] >= len(shape):
            raise LayerError(f"a 0 in shape copies axis {copied[-1]}, which a {len(shape)}-axis bottom lacks")
        middle = [shape[start + i] if dim == 0 else dim for i, dim in enumerate(self.dims)]
        if -1 in middle:
            # Dimensions kept as they are cancel out: an empty bottom still has an answer.
            left = math.prod([shape[i] for i in range(start, end) if i not in copied])
            known = math.prod([dim for dim in self.dims if dim > 0] + [shape[i] for i in copied if i >= end])
            if not known or left % known:
                raise LayerError(f"shape {self.dims} does not divide the bottom's {tuple(shape)}")
            middle[middle.index(-1)] = left // known
        reshaped = (*shape[:start], *middle, *shape[end:])
        if math.prod(reshaped) != math.prod(shape):
            raise LayerError(f"the top's shape {reshaped} and the bottom's {tuple(shape)} differ in size")
        return reshaped

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [self._reshaped(bottom_shapes[0])]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        return bottom.reshape(self._reshaped(bottom.shape))


@register("Flatten")
class Flatten(Layer):
    """Axes `axis` to `end_axis`, inclusive, made one: (n, c, h, w) becomes (n, c*h*w) by default."""

    shares_data = True

    def setup(self, bottom_shapes: list[Shape]) -> None:
        refuse_in_place(self.param)
        self.axis, self.end_axis = self.param.flatten_param.axis, self.param.flatten_param.end_axis

    def _flattened(self, shape: Shape) -> Shape:
        start, end = (canonical_axis(axis, len(shape)) for axis in (self.axis, self.end_axis))
        if start > end + 1:
            raise LayerError(f"end_axis {self.end_axis} comes before axis {self.axis}")
        return *shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [self._flattened(bottom_shapes[0])]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        return bottom.reshape(self._flattened(bottom.shape))


@register("Split")
class Split(Layer):
    """The bottom under several names; gradients are added."""

    tops = (1, None)
    shares_data = True

    def setup(self, bottom_shapes: list[Shape]) -> None:
        refuse_in_place(self.param)
        self.copies = len(self.param.top)

    def forward(self, bottom: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        tops = tuple(bottom.view_as(bottom) for _ in range(self.copies))
        return tops if self.copies > 1 else tops[0]
