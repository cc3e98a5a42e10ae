"""BatchNorm."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


@register("BatchNorm")
class BatchNorm(Layer):
    """(x - mean) / sqrt(variance + eps) over everything but axis 1; Scale does the affine part.

    Blobs: running mean (channels,), running variance (channels,), and the factor (1,) both are to be divided by. With
    batch statistics (TRAIN, or `use_global_stats: false`) each forward pass multiplies the blobs by
    `moving_average_fraction` and adds the batch's mean, its unbiased variance and 1.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.batch_norm_param
        self.eps, self.fraction = param.eps, param.moving_average_fraction
        given = param.HasField("use_global_stats")
        self.use_global_stats = param.use_global_stats if given else self.phase == "TEST"
        self._check_axes(bottom_shapes[0])
        self.channels = bottom_shapes[0][1]
        for shape in ((self.channels,), (self.channels,), (1,)):
            self.add_blob(shape)
        for i, spec in enumerate(self.param.param[:3]):
            if spec.lr_mult != 0:
                raise LayerError(f"param {i} holds statistics, which are not learned: give it lr_mult: 0")
        for i in range(3):
            self.fix_multiplier(i)

    @staticmethod
    def _check_axes(shape: Shape) -> None:
        if len(shape) < 2:
            raise LayerError(
                f"needs at least two axes, the second being channels; the bottom's shape is {tuple(shape)}"
            )

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        self._check_axes(bottom_shapes[0])
        if bottom_shapes[0][1] != self.channels:
            raise LayerError(f"keeps statistics of {self.channels} channels, the bottom has {bottom_shapes[0][1]}")
        return [bottom_shapes[0]]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        mean, variance, factor = (blob.detach() for blob in self.blobs)
        if self.use_global_stats:
            scale = torch.where(factor == 0, 0, 1 / factor)
            return torch.batch_norm(
                bottom, None, None, mean * scale, variance * scale, False, 0.0, self.eps, torch.backends.cudnn.enabled
            )
        count = bottom.numel() // self.channels
        if not count:
            raise LayerError("has no values to take statistics of")
        batch_mean, batch_variance = torch.zeros_like(mean), torch.ones_like(variance)
        top = torch.batch_norm(
            bottom, None, None, batch_mean, batch_variance, True, 1.0, self.eps, torch.backends.cudnn.enabled
        )
        if count == 1:
            batch_variance = torch.zeros_like(variance)
        with torch.no_grad():
            factor.mul_(self.fraction).add_(1)
            mean.mul_(self.fraction).add_(batch_mean)
            variance.mul_(self.fraction).add_(batch_variance)
        return top
