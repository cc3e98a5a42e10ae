"""Normalisation layers of Caffe that PyTorch has not, and the learned scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from caffe_bridge.convert.torch_export.parts.operators import caffe_operator


class Scale(nn.Module):
    """A learned factor and term; their shape has `trailing` axes less than the input, which they spread over."""

    def __init__(self, shape, trailing, bias=True):
        super().__init__()
        self.trailing = trailing
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape)) if bias else None

    def forward(self, x):
        shape = (*self.weight.shape, *[1] * self.trailing)
        x = x * self.weight.reshape(shape)
        return x if self.bias is None else x + self.bias.reshape(shape)


@caffe_operator(
    "(Tensor x, Tensor[] weights, float eps) -> (Tensor, Tensor, Tensor)",
    lambda x, *_, **__: (torch.empty_like(x), *(x.new_empty(1, x.shape[1], 1, 1) for _ in range(2))),
)
def batch_statistics_norm(x, weights, eps):
    """Batch normalisation by the batch's own statistics; returns mean and variance too, (1, C, 1, 1) each."""
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    return F.batch_norm(x, None, None, weights[0], weights[1], True, 0.0, eps), mean, variance


class BatchStatisticsNorm(nn.Module):
    """Batch normalisation by the batch's own statistics; returns the first so many of top, mean and variance."""

    def __init__(self, channels, eps, count=1, layer=""):
        super().__init__()
        self.eps, self.count, self.layer = eps, count, layer
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        found = batch_statistics_norm(x, weights=[self.weight, self.bias], eps=self.eps, layer=self.layer)
        return found[0] if self.count == 1 else found[: self.count]


class LocalResponseNormWithin(nn.Module):
    """Local response normalisation over a square of each channel; cells beyond the edge count as 0."""

    def __init__(self, size, alpha, beta):
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x):
        mean = F.avg_pool2d(x.square(), self.size, stride=1, padding=self.size // 2)
        return x * (1 + self.alpha * mean).pow(-self.beta)


class L2Norm(nn.Module):
    """Divides by the L2 norm over the channels, or over the whole image, and multiplies by a learned scale."""

    def __init__(self, shape, eps, whole_image=False):
        super().__init__()
        self.eps, self.whole_image = eps, whole_image
        self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, x):
        axes = list(range(1, x.ndim)) if self.whole_image else [1]
        return x / (x.square().sum(axes, keepdim=True) + self.eps).sqrt() * self.weight


def mean_variance_norm(x, axis, eps):
    """Shifts to mean 0 over all axes from `axis` on and, unless eps is None, divides by the deviation + eps."""
    values = x.flatten(axis)
    values = values - values.mean(-1, keepdim=True)
    if eps is not None:
        values = values / (values.square().mean(-1, keepdim=True).sqrt() + eps)
    return values.reshape(x.shape)
