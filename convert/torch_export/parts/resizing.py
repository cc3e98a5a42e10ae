"""Resizing as Caffe's forks do it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from caffe_bridge.convert.torch_export.parts.operators import caffe_operator


def resize_by_factors(x, shrink, zoom):
    """Bilinear resizing, corners in place, to ((length - 1) // shrink) * zoom + 1 cells along each side."""
    size = [(length - 1) // shrink * zoom + 1 for length in x.shape[2:]]
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


@caffe_operator("(Tensor x, Tensor mask, int[] size) -> Tensor", lambda x, mask, size: x.new_empty(*x.shape[:2], *size))
def unpool(x, mask, size):
    """Planes of zeros of a size (height, width) with values where the mask says; of several at one place the last."""
    place, values = mask.flatten(2).long(), x.flatten(2)
    order = torch.arange(place.shape[-1], device=x.device).expand_as(place)
    writer = torch.full((*place.shape[:-1], size[0] * size[1]), -1, device=x.device)
    writer = writer.scatter_reduce(-1, place, order, "amax")
    return torch.where(writer >= 0, values.gather(-1, writer.clamp(min=0)), 0).unflatten(2, size)


@caffe_operator("(Tensor masks, int[] size) -> Tensor", lambda masks, size: masks.new_empty(*masks.shape[:2], *size))
def mask_resize(masks, size):
    """Bilinear resizing of [N, C, H, W]: output (i, j) is read at (i * H / height, j * W / width).

    More than half a cell beyond the last one there is nothing but 0.
    """

    def matrix(length, count):
        place = torch.arange(count, dtype=masks.dtype, device=masks.device) * (length / count)
        low = place.long().clamp(max=length - 1)
        share = torch.where(low >= length - 1, 0, place - low)
        rows = torch.zeros(count, length, dtype=masks.dtype, device=masks.device)
        rows.scatter_(1, low[:, None], (1 - share)[:, None])
        rows.scatter_add_(1, (low + 1).clamp(max=length - 1)[:, None], share[:, None])
        return rows * (place <= length - 0.5)[:, None]

    return matrix(masks.shape[2], size[0]) @ masks @ matrix(masks.shape[3], size[1]).T
