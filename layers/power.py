"""Power."""

from __future__ import annotations

from typing import Any

import torch

from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


class _Power(torch.autograd.Function):
    """z^power, z = shift + scale * x, with Caffe's gradient power * scale * y / z: NaN where that is 0 / 0."""

    @staticmethod
    def forward(
        ctx: Any, bottom: torch.Tensor, power: float, scale: float, shift: float, in_place: bool
    ) -> torch.Tensor:
        top = (bottom * scale + shift).pow(power)
        ctx.save_for_backward(top if in_place else bottom, top)
        ctx.numbers = power, scale, shift, in_place
        return top

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        bottom, top = ctx.saved_tensors
        power, scale, shift, in_place = ctx.numbers
        if power == 1:
            slope = torch.full_like(top, scale)
        elif power == 2:
            slope = bottom * (power * scale * scale) + power * scale * shift
        elif shift == 0:
            slope = top / bottom * power
        else:
            slope = top / (bottom * scale + shift) * (power * scale)
        return (slope if in_place else grad) * slope, None, None, None, None


@register("Power")
class Power(Layer):
    """(shift + scale * x)^power; the constant shift^power (1 for power 0), without gradient, if power or scale is 0.

    Where shift + scale * x is 0 the gradient is NaN unless power is 1 or 2, as in Caffe. In place, Caffe's gradient
    reads the top where it means the bottom and writes the slope over the top's gradient before it multiplies the two:
    it is the slope squared. So is this one.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.power_param
        self.power, self.scale, self.shift = param.power, param.scale, param.shift
        self.in_place = list(self.param.bottom) == list(self.param.top)

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        if self.power * self.scale == 0:
            return torch.full_like(bottom, self.shift).pow(self.power)
        if self.power != 1 or (self.in_place and bottom.requires_grad):
            return _Power.apply(bottom, self.power, self.scale, self.shift, self.in_place)
        top = bottom * self.scale if self.scale != 1 else bottom
        return top + self.shift
