"""Values with a gradient of one's own choice, for layers whose gradient in Caffe is not the derivative."""

from __future__ import annotations

from typing import Any

import torch


class Sloped(torch.autograd.Function):
    """`top`, a function of `bottom`, with the gradient of the bottom given as a factor to the top's.

    The product of `slope` and the top's gradient has the bottom's shape.
    """

    @staticmethod
    def forward(ctx: Any, bottom: torch.Tensor, top: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(slope)
        return top.view_as(top)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None
