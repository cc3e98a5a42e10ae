"""Slice."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, canonical_axis
from caffe_bridge.registry import register


@register("Slice")
class Slice(Layer):
    """The bottom cut along `axis` (or the older `slice_dim`): at each slice_point, or into equal parts.

    A single top is a view of the bottom.
    """

    tops = (1, None)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.slice_param
        if param.HasField("axis") and param.HasField("slice_dim"):
            raise LayerError("give axis or slice_dim, not both")
        self.axis = param.slice_dim if param.HasField("slice_dim") else param.axis
        self.parts = len(self.param.top)
        self.shares_data = self.parts == 1  # type: ignore[misc]
        self.points = list(param.slice_point)
        if self.points and len(self.points) != self.parts - 1:
            raise LayerError(f"{self.parts} tops take {self.parts - 1} slice_point(s), {len(self.points)} given")
        if any(low >= high for low, high in zip([0, *self.points], self.points)):
            raise LayerError(f"slice_point must rise from above 0, not {self.points}")

    def _sizes(self, length: int) -> list[int]:
        if not self.points:
            if length % self.parts:
                raise LayerError(f"{length} along axis {self.axis} does not divide into {self.parts} equal tops")
            return [length // self.parts] * self.parts
        if self.parts > length or self.points[-1] > length:
            raise LayerError(f"slice_point {self.points} goes beyond {length} along axis {self.axis}")
        return [high - low for low, high in zip([0, *self.points], [*self.points, length])]

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shape = bottom_shapes[0]
        axis = canonical_axis(self.axis, len(shape))
        return [(*shape[:axis], size, *shape[axis + 1 :]) for size in self._sizes(shape[axis])]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        tops = bottom.split(self._sizes(bottom.shape[self.axis]), self.axis)
        return tops if self.parts > 1 else tops[0]
