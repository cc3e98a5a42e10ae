"""Reduction."""

from __future__ import annotations

import torch

from caffe_bridge import schema
from caffe_bridge.layers.base import Layer, Shape, canonical_axis
from caffe_bridge.registry import register


@register("Reduction")
class Reduction(Layer):
    """`coeff` times the SUM, ASUM (of absolute values), SUMSQ (of squares) or MEAN over `axis` and all after it.

    The gradient of ASUM at 0 is 0.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.reduction_param
        self.axis, self.coeff = param.axis, param.coeff
        self.operation = schema.ReductionParameter.ReductionOp.Name(param.operation)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [bottom_shapes[0][: canonical_axis(self.axis, len(bottom_shapes[0]))]]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        values = bottom.flatten(canonical_axis(self.axis, bottom.ndim))
        if self.operation == "MEAN":
            top = values.mean(-1)
        else:
            terms = {"SUM": values, "ASUM": values.abs(), "SUMSQ": values.square()}
            top = terms[self.operation].sum(-1)
        return top * self.coeff if self.coeff != 1 else top
