"""Crop."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, canonical_axis
from caffe_bridge.registry import register


@register("Crop")
class Crop(Layer):
    """The part of the first bottom that has the second's size along `axis` and every axis after it.

    `offset`, in cells, is where it starts: none for 0, one for all the cropped axes, or one per axis. The second bottom
    gives nothing but its shape, and gets no gradient.
    """

    bottoms = (2, 2)
    constants = (1,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.crop_param
        self.axis, self.offset = param.axis, list(param.offset)

    def _starts(self, shape: Shape, reference: Shape) -> dict[int, int]:
        """Where each cropped axis starts; LayerError unless the crop lies within `shape`."""
        first = canonical_axis(self.axis, len(shape))
        cropped = range(first, len(shape))
        if len(reference) < len(shape):
            raise LayerError(f"the second bottom, of shape {reference}, has no size for {len(shape)} axes")
        if len(self.offset) not in (0, 1, len(cropped)):
            raise LayerError(f"offset is given once or for each of the {len(cropped)} axes from {first} on")
        offsets = self.offset or [0]
        starts = dict(zip(cropped, offsets * len(cropped) if len(offsets) == 1 else offsets))
        for axis, start in starts.items():
            if start + reference[axis] > shape[axis]:
                raise LayerError(
                    f"cropping axis {axis} to {reference[axis]} from offset {start} goes beyond its size {shape[axis]}"
                )
        return starts

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shape, reference = bottom_shapes
        starts = self._starts(shape, reference)
        return [tuple(reference[i] if i in starts else size for i, size in enumerate(shape))]

    def forward(self, bottom: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        top = bottom
        for axis, start in self._starts(tuple(bottom.shape), tuple(reference.shape)).items():
            top = top.narrow(axis, start, reference.shape[axis])
        return top
