"""Normalize of SSD."""

from __future__ import annotations

from typing import Any

import torch

from caffe_bridge import schema
from caffe_bridge.config import cfg
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


class _PublishedGradient(torch.autograd.Function):
    """The original's gradient: it takes the scale out of the sum, which is right for one shared scale only."""

    @staticmethod
    def forward(ctx: Any, bottom: torch.Tensor, scale: torch.Tensor, norm: torch.Tensor, axes: list[int]) -> Any:
        top = bottom / norm * scale
        ctx.save_for_backward(bottom, scale, norm, top)
        ctx.axes = axes
        return top

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        bottom, scale, norm, top = ctx.saved_tensors
        to_bottom = to_scale = None
        if ctx.needs_input_grad[0]:
            along = (bottom * grad).sum(ctx.axes, keepdim=True) / (norm * norm)
            to_bottom = (grad - bottom * along) / norm * scale
        if ctx.needs_input_grad[1]:
            to_scale = (top * grad).sum_to_size(scale.shape) / scale
        return to_bottom, to_scale, None, None


@register("Normalize", source="SSD")
class Normalize(Layer):
    """Divides by the L2 norm over the channels and multiplies by a learned scale (ParseNet, arXiv:1506.04579).

    Bottom (N, C, ...), two to four axes. With `across_spatial` the norm is that of the whole image, else each
    position's. Blob: the scale, () with `channel_shared`, else (C,); 1 where there is no filler. The gradient is the
    published one, which for a scale per channel is not the derivative; `cfg.TRAIN.EXACT_GRADIENTS` gives that.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.norm_param
        self.eps = param.eps
        self.across_spatial, self.channel_shared = param.across_spatial, param.channel_shared
        self._check_axes(bottom_shapes[0])
        self.channels = bottom_shapes[0][1]
        filler = param.scale_filler
        if not param.HasField("scale_filler"):
            filler = schema.FillerParameter(type="constant", value=1)
        self.add_blob(() if self.channel_shared else (self.channels,), filler)

    @staticmethod
    def _check_axes(shape: Shape) -> None:
        if not 2 <= len(shape) <= 4:
            raise LayerError(f"takes a bottom with two to four axes, the second being channels, not {tuple(shape)}")

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        self._check_axes(bottom_shapes[0])
        if not self.channel_shared and bottom_shapes[0][1] != self.channels:
            raise LayerError(f"has scales for {self.channels} channels, the bottom has {bottom_shapes[0][1]}")
        return [bottom_shapes[0]]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        axes = list(range(1, bottom.ndim)) if self.across_spatial else [1]
        scale = self.blobs[0].reshape(-1, *[1] * (bottom.ndim - 2))
        norm = (bottom.square().sum(axes, keepdim=True) + self.eps).sqrt()
        if cfg.TRAIN.EXACT_GRADIENTS:
            return bottom / norm * scale
        return _PublishedGradient.apply(bottom, scale, norm.detach(), axes)
