"""BN, two layers of one name: PSPNet's and SegNet's batch normalisation with a learned scale and shift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from caffe_bridge import schema
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


def _check_axes(shape: Shape, channels: int | None = None) -> int:
    """The number of channels of a blob (N, C, ...); LayerError where it cannot be read as (N, C, H, W)."""
    if not 2 <= len(shape) <= 4:
        raise LayerError(f"takes a bottom with two to four axes, the second being channels, not {tuple(shape)}")
    if channels is not None and shape[1] != channels:
        raise LayerError(f"has parameters for {channels} channels, the bottom has {shape[1]}")
    return shape[1]


def _spread(values: torch.Tensor, ndim: int) -> torch.Tensor:
    """Values per channel, (1, C, 1, 1), in a shape that broadcasts with a blob of `ndim` axes."""
    return values.reshape(1, -1, *[1] * (ndim - 2))


def _batch_statistics(
    bottom: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The normalised batch, its means and its biased variances, the latter two (C,) and without a gradient."""
    count = bottom.numel() // max(bottom.shape[1], 1)
    if not count:
        raise LayerError("has no values to take statistics of")
    mean, variance = torch.zeros_like(scale.detach()).flatten(), torch.zeros_like(scale.detach()).flatten()
    top = torch.batch_norm(
        bottom, scale.flatten(), shift.flatten(), mean, variance, True, 1.0, eps, torch.backends.cudnn.enabled
    )
    # torch keeps the unbiased variance, which of a single value is not a number.
    variance = variance * ((count - 1) / count) if count > 1 else torch.zeros_like(variance)
    return top, mean, variance


class _BatchGradient(torch.autograd.Function):
    """Normalisation by fixed statistics whose gradient is nevertheless that of batch statistics."""

    @staticmethod
    def forward(
        ctx: Any, bottom: torch.Tensor, slope: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, inv: torch.Tensor
    ) -> torch.Tensor:
        normalised = (bottom - mean) * inv
        ctx.save_for_backward(normalised, slope, inv)
        return normalised * slope + bias

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normalised, slope, inv = ctx.saved_tensors
        axes = [0, *range(2, grad.ndim)]
        to_bottom = None
        if ctx.needs_input_grad[0]:
            g = slope * grad
            along = (g * normalised).mean(axes, keepdim=True)
            to_bottom = (g - g.mean(axes, keepdim=True) - normalised * along) * inv
        to_slope = (grad * normalised).sum(axes, keepdim=True) if ctx.needs_input_grad[1] else None
        return to_bottom, to_slope, grad.sum(axes, keepdim=True), None, None


class _ScaleInPlace(torch.autograd.Function):
    """scale * x + shift where the top has overwritten x, so that the scale's gradient sees the top in its place."""

    @staticmethod
    def forward(ctx: Any, bottom: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        top = bottom * scale + shift
        ctx.save_for_backward(top, scale)
        return top

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        top, scale = ctx.saved_tensors
        return grad * scale, (grad * top).sum_to_size(scale.shape), grad.sum_to_size(scale.shape)


@register("BN", source="PSPNet, SegNet")
class BN(Layer):
    """SegNet's layer if bn_param has bn_mode, scale_filler or shift_filler, else PSPNet's."""

    tops = (1, 3)

    def __new__(cls, param: Any = None, bottom_shapes: Sequence[Shape] = (), phase: str = "") -> BN:
        if cls is BN:
            named = ("bn_mode", "scale_filler", "shift_filler")
            cls = SegNetBN if any(param.bn_param.HasField(name) for name in named) else PSPNetBN
        return super().__new__(cls)


class PSPNetBN(BN):
    """Slope * (x - mean) / sqrt(variance + eps) + bias, with running statistics.

    Blobs (1, C, 1, 1): slope, bias (0 without a filler, the slope too), running mean, running variance. In TRAIN, not
    `frozen`, the batch's statistics are used, and the running ones become momentum times themselves plus the rest
    times the batch's, its variance biased. Else the running ones are used; the gradient is still that of batch
    statistics unless `frozen`, which also leaves slope and bias without one. That is how PSPNet's layer has it.
    """

    tops = (1, 1)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.bn_param
        self.momentum, self.eps, self.frozen = param.momentum, param.eps, param.frozen
        self.channels = _check_axes(bottom_shapes[0])
        variance = schema.FillerParameter(type="constant", value=1 if self.frozen else 0)
        for filler in (param.slope_filler, param.bias_filler, None, variance):
            self.add_blob((1, self.channels, 1, 1), filler)
        for i in range(0 if self.frozen else 2, 4):
            self.fix_multiplier(i)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        _check_axes(bottom_shapes[0], self.channels)
        return [bottom_shapes[0]]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        slope, bias, running_mean, running_variance = self.blobs
        if self.phase == "TRAIN" and not self.frozen:
            top, mean, variance = _batch_statistics(bottom, slope, bias, self.eps)
            with torch.no_grad():
                for running, batch in ((running_mean, mean), (running_variance, variance)):
                    running.mul_(self.momentum).add_(batch.view_as(running), alpha=1 - self.momentum)
            return top
        slope, bias, mean, variance = (_spread(blob, bottom.ndim) for blob in self.blobs)
        inv = (variance.detach() + self.eps).rsqrt()
        if self.frozen:
            return (bottom - mean.detach()) * (inv * slope.detach()) + bias.detach()
        return _BatchGradient.apply(bottom, slope, bias, mean.detach(), inv)


class SegNetBN(BN):
    """Scale * (x - mean) / sqrt(variance + 1e-9) + shift by the batch's statistics, whatever the phase.

    Blobs (1, C, 1, 1): scale, shift (0 without a filler). With bn_mode INFERENCE it is scale * x + shift, the
    statistics having been folded in. Tops: the result, in LEARN also the batch's mean and biased variance
    (1, C, 1, 1), which get no gradient. As in the original, backward sets the diffs of scale and shift (pycaffe face).
    """

    EPS = 1e-9

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.bn_param
        self.learns, self.count = param.bn_mode == param.LEARN, len(self.param.top)
        self.in_place = list(self.param.bottom) == list(self.param.top)
        if not self.learns and self.count > 1:
            raise LayerError("has statistics as further tops with bn_mode: LEARN only")
        self.channels = _check_axes(bottom_shapes[0])
        for filler in (param.scale_filler, param.shift_filler):
            self.add_blob((1, self.channels, 1, 1), filler)

    def sets_gradient(self, blob: int, bottom_shapes: Sequence[Shape]) -> bool:
        return True

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        _check_axes(bottom_shapes[0], self.channels)
        statistics = (1, self.channels, 1, 1)
        return [(*bottom_shapes[0], 1, 1)[:4], statistics, statistics][: self.count]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        bottom = bottom.reshape((*bottom.shape, 1, 1)[:4])
        scale, shift = self.blobs
        if not self.learns:
            return _ScaleInPlace.apply(bottom, scale, shift) if self.in_place else bottom * scale + shift
        top, mean, variance = _batch_statistics(bottom, scale, shift, self.EPS)
        statistics = (mean.view_as(scale), variance.view_as(scale))
        return (top, *statistics)[: self.count] if self.count > 1 else top
