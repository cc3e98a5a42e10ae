"""Layers that normalise, and the scales and shifts that follow them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from caffe_bridge.convert.torch_export.registry import WrittenLayer, writes
from caffe_bridge.convert.torch_export.source import ModuleSource, Weight, blob, call, literal
from caffe_bridge.layers.base import canonical_axis
from caffe_bridge.layers.bn import SegNetBN


def _module_for(ndim: int) -> str:
    """The batch norm module for a bottom with so many axes."""
    return f"nn.BatchNorm{max(ndim - 2, 1)}d"


@writes("BatchNorm")
def batch_norm(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.BatchNorm1d to nn.BatchNorm3d, with the Scale layer that follows as its weight and bias."""
    layer, ndim, scale = node.layer, len(node.bottoms[0]), node.scale
    x = bottoms[0]
    if ndim > 5:
        x, ndim = f"torch.flatten({x}, 2)", 3
    statistics: dict[str, Weight] = {}
    if layer.use_global_stats:
        mean, variance, factor = layer.blobs
        share = torch.where(factor == 0, 0, 1 / factor)
        statistics = {
            "running_mean": Weight(mean * share),
            "running_var": Weight(variance * share),
            "num_batches_tracked": Weight(torch.tensor(0)),
        }
    made = call(
        _module_for(ndim),
        layer.channels,
        eps=float(layer.eps),
        momentum=round(1 - layer.fraction, 6) if statistics else None,
        affine=None if scale else False,
        track_running_stats=None if statistics else False,
    )
    weights = {}
    if scale:
        weights["weight"] = blob(scale, 0)
        bias = blob(scale, 1) if len(scale.layer.blobs) > 1 else Weight(torch.zeros(layer.channels))
        weights["bias"] = bias
    top = code.module(made, x, **weights, **statistics)
    return top if x == bottoms[0] else f"{top}.reshape({bottoms[0]}.shape)"


@writes("BN")
def bn(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.BatchNorm2d for PSPNet's layer; SegNet's has the batch's statistics, or a scale and a shift only."""
    layer, ndim = node.layer, len(node.bottoms[0])
    channels = layer.channels
    if not isinstance(layer, SegNetBN):
        names = ("weight", "bias", "running_mean", "running_var")
        weights = {name: blob(node, i, (channels,)) for i, name in enumerate(names)}
        weights["num_batches_tracked"] = Weight(torch.tensor(0))
        made = call(_module_for(ndim), channels, eps=float(layer.eps), momentum=round(1 - layer.momentum, 6))
        return code.module(made, *bottoms, **weights)
    x = bottoms[0] + ".unsqueeze(-1)" * (4 - ndim)
    scale, shift = (blob(node, i, (channels,)) for i in range(2))
    if not layer.learns:
        return code.module(call(code.part("Scale"), (channels,), trailing=2), x, weight=scale, bias=shift)
    note = code.note(node)
    made = call(code.part("BatchStatisticsNorm"), channels, eps=layer.EPS, count=layer.count, layer=note)
    return code.module(made, x, weight=scale, bias=shift)


@writes("Scale")
def scale(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """A product, and a sum where there is a bias."""
    layer, ndim = node.layer, len(node.bottoms[0])
    axis = canonical_axis(layer.axis, ndim)
    if layer.learned:
        shape = tuple(layer.blobs[0].shape)
        made = call(
            code.part("Scale"), shape, trailing=_trailing(ndim, axis, shape), bias=None if layer.with_bias else False
        )
        bias = {"bias": blob(node, 1)} if layer.with_bias else {}
        return code.module(made, *bottoms, weight=blob(node, 0), **bias)
    top = f"{bottoms[0]} * {_spread(bottoms[1], ndim, axis, node.bottoms[1])}"
    if not layer.with_bias:
        return top
    return f"{top} + {_spread(code.parameter(blob(node, 0)), ndim, axis, node.bottoms[1])}"


@writes("Bias")
def bias(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """A sum."""
    layer, ndim = node.layer, len(node.bottoms[0])
    axis = canonical_axis(layer.axis, ndim)
    if len(bottoms) > 1:
        return f"{bottoms[0]} + {_spread(bottoms[1], ndim, axis, node.bottoms[1])}"
    shape = tuple(layer.blobs[0].shape)
    return f"{bottoms[0]} + {_spread(code.parameter(blob(node, 0)), ndim, axis, shape)}"


def _trailing(ndim: int, axis: int, shape: Sequence[int]) -> int:
    """Axes to add to an operand of a shape, for it to broadcast over `ndim` axes from `axis` on."""
    return ndim - axis - len(shape) if shape else 0


def _spread(operand: str, ndim: int, axis: int, shape: Sequence[int]) -> str:
    trailing = _trailing(ndim, axis, shape)
    return f"{operand}[...{', None' * trailing}]" if trailing else operand


@writes("LRN")
def lrn(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.LocalResponseNorm across channels; within a channel the mean is an average pooling of the squares."""
    layer = node.layer
    if layer.within:
        return code.module(call(code.part("LocalResponseNormWithin"), layer.size, layer.alpha, layer.beta), *bottoms)
    options = {"alpha": layer.alpha, "beta": layer.beta, "k": float(layer.k)}
    return code.module(call("nn.LocalResponseNorm", layer.size, **options), *bottoms)


@writes("MVN")
def mvn(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Mean 0, and standard deviation 1, of each channel or image."""
    layer = node.layer
    eps = float(layer.eps) if layer.with_variance else None
    images = bottoms[0] + ".unsqueeze(-1)" * (4 - len(node.bottoms[0]))
    return f"{code.part('mean_variance_norm')}({images}, axis={layer.first}, eps={literal(eps)})"


@writes("Normalize")
def normalize(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """The L2 norm over channels, or whole images, and a learned scale."""
    layer = node.layer
    shape = (-1, *[1] * (len(node.bottoms[0]) - 2))
    weight = blob(node, 0, shape)
    made = call(
        code.part("L2Norm"),
        tuple(weight.values.shape),
        eps=float(layer.eps),
        whole_image=layer.across_spatial or None,
    )
    return code.module(made, *bottoms, weight=weight)
