"""MVN."""

from __future__ import annotations

from typing import Any

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


class _Standardize(torch.autograd.Function):
    """(x - mean) / (deviation + eps) along the last axis, with Caffe's gradient, which takes eps for 0."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, eps: float) -> torch.Tensor:
        centred = values - values.mean(-1, keepdim=True)
        scale = centred.square().mean(-1, keepdim=True).sqrt() + eps
        top = centred / scale
        ctx.save_for_backward(top, scale)
        return top

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        top, scale = ctx.saved_tensors
        along = (grad * top).mean(-1, keepdim=True)
        return (grad - grad.mean(-1, keepdim=True) - top * along) / scale, None


@register("MVN")
class MVN(Layer):
    """Each channel of each image, or with `across_channels` each image, shifted to mean 0.

    With `normalize_variance`, the default, also divided by its (biased) standard deviation + eps. The top always has
    four axes (num, channels, height, width); missing ones are 1.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.mvn_param
        self.first = 1 if param.across_channels else 2
        self.with_variance, self.eps = param.normalize_variance, param.eps

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shape = bottom_shapes[0]
        if len(shape) > 4:
            raise LayerError(f"takes at most four axes (num, channels, height, width), not shape {shape}")
        return [(*shape, *[1] * (4 - len(shape)))]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        (shape,) = self.top_shapes([tuple(bottom.shape)])
        values = bottom.reshape(shape).flatten(self.first)
        if self.with_variance:
            top = _Standardize.apply(values, self.eps)
        else:
            top = values - values.mean(-1, keepdim=True)
        return top.reshape(shape)
