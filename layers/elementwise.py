"""AbsVal, BNLL, Clip, ELU, Exp, Log, Swish and Threshold."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.sloped import Sloped
from caffe_bridge.registry import register


class _LogInPlace(Sloped):
    """`top`, with the gradient of Caffe's Log in place: the slope's square, since the slope overwrites the top's."""

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * slope, None, None


class _Elementwise(Layer):
    """What a layer needs whose gradient Caffe takes from the bottom's memory, which in place holds the top."""

    @property
    def in_place(self) -> bool:
        return list(self.param.bottom) == list(self.param.top)


@register("AbsVal")
class AbsVal(_Elementwise):
    """|x|; the gradient at 0 is 0. Not in place."""

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if self.in_place:
            raise LayerError("cannot work in place: give the top another name than the bottom")

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        return bottom.abs()


@register("BNLL")
class BNLL(_Elementwise):
    """log(1 + exp(x)). In place, Caffe's gradient is that at the top; so is this one."""

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        top = F.softplus(bottom, threshold=50)
        if self.in_place and bottom.requires_grad:
            top = top.detach()
            return Sloped.apply(bottom, top, top.sigmoid())
        return top


@register("Clip")
class Clip(_Elementwise):
    """x limited to `min` and `max`, `min` where the two contradict; the gradient passes at the limits.

    In place, Caffe compares the top with the limits and so passes every gradient, as this does.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.low, self.high = self.param.clip_param.min, self.param.clip_param.max

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        if not self.low <= self.high:
            return torch.full_like(bottom, self.low)
        top = bottom.clamp(self.low, self.high)
        if self.in_place and bottom.requires_grad:
            return Sloped.apply(bottom, top.detach(), torch.ones_like(bottom))
        return top


@register("ELU")
class ELU(_Elementwise):
    """x above 0, else alpha (exp(x) - 1), where the gradient is top + alpha (Clevert et al., 2015)."""

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.alpha = self.param.elu_param.alpha

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        top = F.elu(bottom, self.alpha)
        if self.alpha < 0 and self.in_place and bottom.requires_grad:
            top = top.detach()
            return Sloped.apply(bottom, top, torch.where(top > 0, 1, top + self.alpha))
        return top


def _log_base(base: float) -> float:
    """The logarithm of an ExpParameter's or LogParameter's base, -1 standing for e."""
    if base == -1:
        return 1.0
    if not 0 < base < math.inf:
        raise LayerError(f"base must be above 0 and finite, or -1 for e; not {base:g}")
    return math.log(base)


@register("Exp")
class Exp(Layer):
    """base^(shift + scale * x); base -1 stands for e."""

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.exp_param
        log_base = _log_base(param.base)
        self.inner = log_base * param.scale
        self.outer = torch.tensor(log_base * param.shift, dtype=torch.float64).exp().item()

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        top = (bottom * self.inner if self.inner != 1 else bottom).exp()
        return top * self.outer if self.outer != 1 else top


@register("Log")
class Log(_Elementwise):
    """log(shift + scale * x) to the base `base`; base -1 stands for e.

    In place, Caffe's gradient is scale / (log(base) (shift + scale * top)) squared, whatever the top's gradient; so
    is this one.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.log_param
        self.log_base = _log_base(param.base)
        if not self.log_base:
            raise LayerError("base must not be 1, to which there is no logarithm")
        self.scale, self.shift = param.scale, param.shift

    def _argument(self, values: torch.Tensor) -> torch.Tensor:
        scaled = values * self.scale if self.scale != 1 else values
        return scaled + self.shift if self.shift else scaled

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        top = self._argument(bottom).log()
        if self.log_base != 1:
            top = top * (1 / self.log_base)
        if self.in_place and bottom.requires_grad:
            top = top.detach()
            return _LogInPlace.apply(bottom, top, self.scale / self.log_base / self._argument(top))
        return top


@register("Swish")
class Swish(Layer):
    """x sigmoid(beta x) (Ramachandran et al., 2017)."""

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.beta = self.param.swish_param.beta

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        return F.silu(bottom) if self.beta == 1 else bottom * torch.sigmoid(bottom * self.beta)


@register("Threshold")
class Threshold(Layer):
    """1 above `threshold`, else 0; without a gradient."""

    no_gradient = Layer.ALL_BOTTOMS

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.threshold = self.param.threshold_param.threshold

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        return (bottom > self.threshold).to(bottom.dtype)
