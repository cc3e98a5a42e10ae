"""Pooling over the windows Caffe has where PyTorch has others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from caffe_bridge.convert.torch_export.parts.operators import caffe_operator


def caffe_windows(x, fill, kernel, stride, pad, ceil):
    """The image extended by `fill` so that unpadded windows cover it; kernel, pad and number of windows."""
    kernel, pad, some = kernel or tuple(x.shape[2:]), pad or (0, 0), bool(pad)
    counts, ends = [], []
    for length, k, s, p in zip(x.shape[2:], kernel, stride, pad):
        room = length + 2 * p - k
        count = (-(-room // s) if ceil else room // s) + 1
        if some:
            count = min(count, -(-(length + p) // s))
        counts.append(count)
        ends.append(max((count - 1) * s + k - length - p, 0))
    return F.pad(x, (pad[1], ends[1], pad[0], ends[0]), value=fill), kernel, pad, counts


def empty_masked(x, kernel, stride, pad, ceil):
    *_, counts = caffe_windows(x, 0.0, kernel, stride, pad, ceil)
    return x.new_empty(*x.shape[:2], *counts), x.new_empty(*x.shape[:2], *counts)


@caffe_operator("(Tensor x, int[]? kernel, int[] stride, int[]? pad, bool ceil) -> (Tensor, Tensor)", empty_masked)
def max_pool_with_mask(x, kernel, stride, pad, ceil):
    """Maxima and, as numbers, their places y * W + x in their plane; -1 for a window without a cell."""
    padded, kernel, pad, _ = caffe_windows(x, float("-inf"), kernel, stride, pad, ceil)
    pooled, place = F.max_pool2d(padded, kernel, stride, return_indices=True)
    row = torch.div(place, padded.shape[3], rounding_mode="floor") - pad[0]
    column = place % padded.shape[3] - pad[1]
    inside = (row >= 0) & (row < x.shape[2]) & (column >= 0) & (column < x.shape[3])
    pooled = pooled.masked_fill(~inside, torch.finfo(torch.float32).min)
    return pooled, torch.where(inside, row * x.shape[3] + column, -1).to(x.dtype)


class WidePool2d(nn.Module):
    """Caffe's pooling windows: their number rounds up, and with padding a last one beyond the image is dropped.

    Arguments are (height, width); a kernel of None is the whole image.
    """

    def __init__(self, kernel, stride=(1, 1), pad=None, ceil=True):
        super().__init__()
        self.kernel, self.stride, self.pad, self.ceil = kernel, stride, pad, ceil

    def windows(self, x, fill):
        return caffe_windows(x, fill, self.kernel, self.stride, self.pad, self.ceil)


class MaxPool2dWithMask(WidePool2d):
    """Maxima of Caffe's windows and their places; see max_pool_with_mask."""

    def __init__(self, *windows, layer="", **options):
        super().__init__(*windows, **options)
        self.layer = layer

    def forward(self, x):
        return max_pool_with_mask(x, self.kernel, self.stride, self.pad, self.ceil, layer=self.layer)


class WideMaxPool2d(WidePool2d):
    """Maxima of Caffe's windows; one without a cell has the least number of single precision."""

    def forward(self, x):
        padded, kernel, _, _ = self.windows(x, torch.finfo(torch.float32).min)
        return F.max_pool2d(padded, kernel, self.stride)


class WideAvgPool2d(WidePool2d):
    """Averages of Caffe's windows: padding counts as cells, what lies beyond it does not."""

    def forward(self, x):
        padded, kernel, pad, counts = self.windows(x, 0.0)
        sums = F.avg_pool2d(padded, kernel, self.stride, divisor_override=1)
        rows, columns = (
            (torch.arange(count, device=x.device) * stride - p + k).clamp(max=length + p)
            - (torch.arange(count, device=x.device) * stride - p)
            for count, k, stride, p, length in zip(counts, kernel, self.stride, pad, x.shape[2:])
        )
        return sums / (rows[:, None] * columns)


class StochasticPool2d(WidePool2d):
    """The mean of each window's cells weighted by themselves, what stochastic pooling gives on average."""

    def forward(self, x):
        padded, kernel, _, _ = self.windows(x, 0.0)
        total = F.avg_pool2d(padded, kernel, self.stride, divisor_override=1)
        squares = F.avg_pool2d(padded.square(), kernel, self.stride, divisor_override=1)
        return torch.where(total > 0, squares / total, 0)


def pyramid_pool(x, height, pool):
    """Pools 2^level bins along both sides of the image for every level of a pyramid; (N, features)."""
    levels = []
    for level in range(height):
        bins = 2**level
        kernel = tuple(-(-length // bins) for length in x.shape[2:])
        pad = tuple((k * bins - length + 1) // 2 for k, length in zip(kernel, x.shape[2:]))
        levels.append(pool(kernel, kernel, pad if any(pad) else None)(x))
    return levels[0] if height == 1 else torch.cat([level.flatten(1) for level in levels], 1)
