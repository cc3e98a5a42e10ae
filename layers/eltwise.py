"""Eltwise."""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch

from caffe_bridge import schema
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


class _QuotientProduct(torch.autograd.Function):
    """A product whose gradient is top / bottom, not the product of the others: NaN where a bottom is 0."""

    @staticmethod
    def forward(ctx: Any, *factors: torch.Tensor) -> torch.Tensor:
        top = functools.reduce(operator.mul, factors)
        ctx.save_for_backward(top, *factors)
        return top

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        top, *factors = ctx.saved_tensors
        return tuple(top / f * grad if needed else None for f, needed in zip(factors, ctx.needs_input_grad))


@register("Eltwise")
class Eltwise(Layer):
    """PROD, SUM (with one `coeff` per bottom) or MAX of bottoms of one shape.

    The gradient of MAX goes to one bottom: of the first two the second on a tie, then the earlier. With
    `stable_prod_grad: false` the gradient of PROD is top / bottom, as Caffe's faster but less stable form has it.
    """

    bottoms = (2, None)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.eltwise_param
        self.operation = schema.EltwiseParameter.EltwiseOp.Name(param.operation)
        self.stable = param.stable_prod_grad
        self.coefficients = list(param.coeff)
        if self.coefficients and len(self.coefficients) != len(bottom_shapes):
            raise LayerError(f"{len(self.coefficients)} coeff given for {len(bottom_shapes)} bottoms")
        if self.coefficients and self.operation == "PROD":
            raise LayerError("coeff goes with operation: SUM, not PROD")

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        if len(set(bottom_shapes)) > 1:
            raise LayerError(f"bottoms must have one shape, not {', '.join(map(str, bottom_shapes))}")
        return [bottom_shapes[0]]

    def forward(self, *bottoms: torch.Tensor) -> torch.Tensor:
        if self.operation == "SUM":
            terms = [c * b if c != 1 else b for c, b in zip(self.coefficients, bottoms)] or bottoms
            return functools.reduce(operator.add, terms)
        if self.operation == "PROD":
            return functools.reduce(operator.mul, bottoms) if self.stable else _QuotientProduct.apply(*bottoms)
        top = torch.where(bottoms[0] > bottoms[1], bottoms[0], bottoms[1])
        for bottom in bottoms[2:]:
            top = torch.where(bottom > top, bottom, top)
        return top
