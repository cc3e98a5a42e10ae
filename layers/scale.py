"""Scale and Bias: a factor and a term per channel, or per anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from caffe_bridge import schema
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, canonical_axis
from caffe_bridge.registry import register


def learned_shape(param: Any, shape: Shape) -> Shape:
    """The part of a bottom's shape that ScaleParameter or BiasParameter covers: `num_axes` from `axis`; -1 for all."""
    axis = canonical_axis(param.axis, len(shape))
    if param.num_axes < -1:
        raise LayerError(f"num_axes must be -1 or more, not {param.num_axes}")
    if param.num_axes == -1:
        return shape[axis:]
    if axis + param.num_axes > len(shape):
        raise LayerError(f"num_axes: {param.num_axes} from axis {axis} goes beyond a {len(shape)}-axis bottom")
    return shape[axis : axis + param.num_axes]


def check_operand(shape: Shape, operand: Shape, axis: int) -> None:
    """LayerError unless the operand's axes are the bottom's from `axis` on; a scalar always fits."""
    if not operand:
        return
    axis = canonical_axis(axis, len(shape))
    if shape[axis : axis + len(operand)] != tuple(operand):
        raise LayerError(f"an operand of shape {tuple(operand)} does not fit axes {axis} on of the bottom's {shape}")


def spread(operand: torch.Tensor, ndim: int, axis: int) -> torch.Tensor:
    """The operand with trailing axes added, so that it broadcasts over a bottom of `ndim` axes from `axis` on."""
    if not operand.ndim:
        return operand
    trailing = ndim - canonical_axis(axis, ndim) - operand.ndim
    return operand.reshape(*operand.shape, *[1] * trailing)


@register("Scale")
class Scale(Layer):
    """bottom * scale, plus a learned bias with `bias_term`.

    The scale is the second bottom, or else blob 0, which starts at 1 unless `filler` says otherwise; the bias is the
    last blob. Either has the bottom's dimensions from `axis` on, `num_axes` of them, and spreads over the rest.
    """

    bottoms = (1, 2)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.scale_param
        self.axis, self.with_bias = param.axis, param.bias_term
        self.learned = len(bottom_shapes) == 1
        if self.learned:
            shape = learned_shape(param, bottom_shapes[0])
            one = schema.FillerParameter(type="constant", value=1)
            self.add_blob(shape, param.filler if param.HasField("filler") else one)
        else:
            shape = bottom_shapes[1]
        if self.with_bias:
            self.add_blob(shape, param.bias_filler)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        operands = [*bottom_shapes[1:], *(tuple(blob.shape) for blob in self.blobs)]
        for operand in operands:
            check_operand(bottom_shapes[0], operand, self.axis)
        return [bottom_shapes[0]]

    def sets_gradient(self, blob: int, bottom_shapes: Sequence[Shape]) -> bool:
        """Caffe writes the learned scale's product, or its sum over inner axes, into the diff where nothing is left to
        sum: a scale of the bottom's own size, or one item before `axis` (a batch of 1). Only a sum down to one number
        is added.
        """
        if not self.learned or blob:
            return False
        shape, size = bottom_shapes[0], self.blobs[0].numel()
        outer = math.prod(shape[: canonical_axis(self.axis, len(shape))])
        return math.prod(shape) == size or (outer == 1 and size != 1)

    def forward(self, bottom: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        factor = self.blobs[0] if scale is None else scale
        top = bottom * spread(factor, bottom.ndim, self.axis)
        if self.with_bias:
            top = top + spread(self.blobs[-1], bottom.ndim, self.axis)
        return top


@register("Bias")
class Bias(Layer):
    """bottom + bias.

    The bias is the second bottom, or else blob 0; it has the bottom's dimensions from `axis` on, `num_axes` of them.
    """

    bottoms = (1, 2)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.bias_param
        self.axis = param.axis
        if len(bottom_shapes) == 1:
            self.add_blob(learned_shape(param, bottom_shapes[0]), param.filler)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        operand = bottom_shapes[1] if len(bottom_shapes) > 1 else tuple(self.blobs[0].shape)
        check_operand(bottom_shapes[0], operand, self.axis)
        return [bottom_shapes[0]]

    def forward(self, bottom: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return bottom + spread(self.blobs[0] if bias is None else bias, bottom.ndim, self.axis)
