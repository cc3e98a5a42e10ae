"""Reorg of YOLOv2."""

from __future__ import annotations

import torch

from caffe_bridge.config import cfg
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register


def spread(images: torch.Tensor, stride: int) -> torch.Tensor:
    """Channels to blocks of cells: [N, C, H, W] to [N, C / s^2, H * s, W * s].

    Channel k * (C / s^2) + c goes to cell (k / s, k % s) of each s x s block of channel c.
    """
    n, channels, height, width = images.shape
    blocks = images.reshape(n, stride, stride, channels // stride**2, height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, channels // stride**2, height * stride, width * stride)


def gather(images: torch.Tensor, stride: int) -> torch.Tensor:
    """darknet's reorg, [N, C, H, W] to [N, C * s^2, H / s, W / s], which is not the inverse of `spread`.

    It reads the memory as C / s^2 channels of H * s rows of W * s cells, collects the blocks of those, and writes
    them as C channels of H x W, which the result then only counts differently.
    """
    n, channels, height, width = images.shape
    blocks = images.reshape(n, channels // stride**2, height, stride, width, stride)
    flat = blocks.permute(0, 3, 5, 1, 2, 4)
    return flat.reshape(n, channels * stride**2, height // stride, width // stride)


@register("Reorg", source="MobileNet-YOLO")
class Reorg(Layer):
    """Trades resolution for channels (`gather`), or the other way with `reverse` (`spread`); the shape is fixed.

    The fork's backward pass gives zeros, so that what lies below learns nothing, and so does this one;
    `cfg.TRAIN.EXACT_GRADIENTS` gives the derivative.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.reorg_param
        self.stride, self.reverse, self.shape = param.stride, param.reverse, bottom_shapes[0]
        if not self.stride:
            raise LayerError("needs reorg_param.stride, above 0")
        if list(self.param.bottom) == list(self.param.top):
            raise LayerError("cannot work in place: give the top another name than the bottom")
        if len(self.shape) != 4:
            raise LayerError(f"takes a bottom (N, C, H, W), not {self.shape}")
        _, channels, *size = self.shape
        if channels % self.stride**2 or (not self.reverse and any(length % self.stride for length in size)):
            raise LayerError(f"stride {self.stride} does not fit a bottom of shape {self.shape}")

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        if bottom_shapes[0] != self.shape:
            raise LayerError(f"is set up for a bottom of shape {self.shape}, not {bottom_shapes[0]}")
        n, channels, height, width = self.shape
        s = self.stride
        if self.reverse:
            return [(n, channels // s**2, height * s, width * s)]
        return [(n, channels * s**2, height // s, width // s)]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        if not cfg.TRAIN.EXACT_GRADIENTS:
            bottom = bottom.detach()
        return (spread if self.reverse else gather)(bottom, self.stride)
