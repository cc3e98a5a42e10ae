"""Upsample, two layers of one name: SegNet's unpooling and YOLO's repetition."""

from __future__ import annotations

from typing import Any

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, check_shape
from caffe_bridge.layers.indices import read_indices
from caffe_bridge.registry import register


class _Unpool(torch.autograd.Function):
    """Puts values at indices; of several at one place the last counts, and each gets that place's gradient."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, index: torch.Tensor, count: int) -> torch.Tensor:
        ctx.save_for_backward(index)
        order = torch.arange(index.shape[-1], device=index.device).expand_as(index)
        writer = index.new_full((*index.shape[:-1], count), -1).scatter_reduce(-1, index, order, "amax")
        if not index.shape[-1]:
            return values.new_zeros(writer.shape)
        return torch.where(writer >= 0, values.gather(-1, writer.clamp(min=0)), 0)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        return grad.gather(-1, index), None, None


def unpool(values: torch.Tensor, mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Planes of zeros with values where a max pooling found them (Badrinarayanan et al., arXiv:1511.00561).

    Args:
        values: [N, C, h, w].
        mask: [N, C, h, w], positions y * W + x as Pooling's second top has them.
        size: (H, W) of the result.

    Raises:
        LayerError: on the CPU, a position outside the plane.
    """
    index = read_indices(mask.detach().flatten(2), size[0] * size[1])
    return _Unpool.apply(values.flatten(2), index, size[0] * size[1]).unflatten(2, size)


def repeat(images: torch.Tensor, scale: int) -> torch.Tensor:
    """Each cell of [N, C, H, W] as a scale x scale block of equal ones."""
    n, channels, height, width = images.shape
    blocks = images[:, :, :, None, :, None].expand(n, channels, height, scale, width, scale)
    return blocks.reshape(n, channels, height * scale, width * scale)


@register("Upsample", source="SegNet, MobileNet-YOLO")
class Upsample(Layer):
    """With two bottoms, values and mask, SegNet's `unpool`; with one, YOLO's `repeat`.

    SegNet's output size is upsample_h x upsample_w, or the first bottom's size times a scale above 1 (default 2),
    less one where pad_out_h or pad_out_w says so; it stays what it was at set-up. The mask gets no gradient. YOLO's
    scale is 1 by default.
    """

    bottoms = (1, 2)
    constants = (1,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.upsample_param
        self.unpools = len(bottom_shapes) > 1
        self._check(bottom_shapes)
        if self.unpools:
            self.size = _unpooled_size(param, bottom_shapes[0][2:])
            return
        self.scale = param.scale if param.HasField("scale") else 1
        if self.scale < 1:
            raise LayerError(f"scale must be at least 1, not {self.scale}")

    @staticmethod
    def _check(bottom_shapes: list[Shape]) -> None:
        if any(len(shape) != 4 for shape in bottom_shapes) or len(set(bottom_shapes)) != 1:
            raise LayerError(f"takes a bottom (N, C, H, W), and with it a mask of its shape, not {bottom_shapes}")

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        self._check(bottom_shapes)
        n, channels, height, width = bottom_shapes[0]
        size = self.size if self.unpools else (height * self.scale, width * self.scale)
        shape = (n, channels, *size)
        check_shape("the top", shape)
        return [shape]

    def forward(self, bottom: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return repeat(bottom, self.scale) if mask is None else unpool(bottom, mask, self.size)


def _unpooled_size(param: Any, size: Shape) -> tuple[int, int]:
    if param.HasField("upsample_h") and param.HasField("upsample_w"):
        out = (param.upsample_h, param.upsample_w)
        if min(out) <= 1:
            raise LayerError(f"upsample_h and upsample_w must be above 1, not {out[0]} and {out[1]}")
        return out
    sides = param.HasField("scale_h"), param.HasField("scale_w")
    if any(sides) and (not all(sides) or param.HasField("scale")):
        raise LayerError("give upsample_h and upsample_w, or scale, or scale_h and scale_w")
    whole = param.scale if param.HasField("scale") else 2
    scales = (param.scale_h, param.scale_w) if all(sides) else (whole, whole)
    pads = (param.pad_out_h, param.pad_out_w)
    if min(scales) <= 1 or any(pad and scale != 2 for pad, scale in zip(pads, scales)):
        raise LayerError(f"scales must be above 1, and 2 where pad_out is set, not {scales[0]} and {scales[1]}")
    height, width = (length * scale - int(pad) for length, scale, pad in zip(size, scales, pads))
    return height, width
