"""Im2col."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, canonical_axis
from caffe_bridge.layers.convolution import spatial_parameter
from caffe_bridge.registry import register


@register("Im2col")
class Im2col(Layer):
    """The patches a convolution of the same ConvolutionParameter would multiply, side by side as channels.

    Bottom (..., channels, *size), channels at `axis`, any number of spatial axes after it. Top
    (..., channels * kernel volume, *output size), a channel's kernel positions next to each other in row order.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.convolution_param
        self.ndim = len(bottom_shapes[0])
        self.axis = canonical_axis(param.axis, self.ndim)
        axes = self.ndim - self.axis - 1
        if not axes:
            raise LayerError(f"needs a spatial axis after the channels, axis {self.axis}")
        self.kernel = spatial_parameter(param, "kernel_size", axes, 1)
        self.stride = spatial_parameter(param, "stride", axes, 1)
        self.pad = spatial_parameter(param, "pad", axes, 0)
        self.dilation = spatial_parameter(param, "dilation", axes, 1)
        for name in ("kernel", "stride", "dilation"):
            if 0 in getattr(self, name):
                raise LayerError(f"{name} must not be 0")
        self.extent = [dilation * (kernel - 1) + 1 for kernel, dilation in zip(self.kernel, self.dilation)]

    def _output_size(self, size: Shape) -> list[int]:
        """Rounded towards zero, as Caffe's integers are: a kernel may overhang by less than a stride."""
        rooms = [length + 2 * pad - extent for length, pad, extent in zip(size, self.pad, self.extent)]
        return [room // stride + 1 if room >= 0 else 1 - (-room) // stride for room, stride in zip(rooms, self.stride)]

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shape = bottom_shapes[0]
        if len(shape) != self.ndim:
            raise LayerError(f"the bottom had {self.ndim} axes at set-up and has {len(shape)} now")
        out = self._output_size(shape[self.axis + 1 :])
        if min(out) < 1:
            raise LayerError(f"kernel {self.kernel} and pad {self.pad} leave no output: its size would be {out}")
        return [(*shape[: self.axis], shape[self.axis] * math.prod(self.kernel), *out)]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        (shape,) = self.top_shapes([tuple(bottom.shape)])
        padding: list[int] = []
        for i in reversed(range(len(self.kernel))):
            covered = (shape[self.axis + 1 + i] - 1) * self.stride[i] + self.extent[i]
            end = covered - bottom.shape[self.axis + 1 + i] - self.pad[i]
            padding += [self.pad[i], max(end, self.pad[i])]
        patches = F.pad(bottom, padding)
        for i, (extent, stride, dilation) in enumerate(zip(self.extent, self.stride, self.dilation)):
            patches = patches.unfold(self.axis + 1 + i, extent, stride)[..., ::dilation]
        first = self.axis + 1
        order = [*range(first), *range(self.ndim, patches.ndim), *range(first, self.ndim)]
        return patches.permute(order).reshape(shape)
