"""Layers that normalise by what they are given."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from caffe_bridge.convert.caffe_import.families.arithmetic import tiled
from caffe_bridge.convert.caffe_import.graph import Node
from caffe_bridge.convert.caffe_import.powers import powered
from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.convert.caffe_import.registry import emits
from caffe_bridge.convert.caffe_import.shapes import reshaped
from caffe_bridge.convert.caffe_import.writer import NetWriter


@emits("lrn")
def lrn(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """LRN."""
    size, alpha, beta, k = (node[key] for key in ("size", "alpha", "beta", "k"))
    shape = node.output.shape
    if size < 1:
        raise Unsupported(f"normalises over {size} channels")
    images = shape if len(shape) == 4 else (*shape[:2], 1, math.prod(shape[2:]))
    blob = reshaped(writer, bottoms[0], images, "image")
    if size % 2 == 0:
        return reshaped(writer, _even_lrn(writer, blob, size, alpha, beta, k), shape, "axes")
    factor = 1.0
    if not writer.dialect.lrn_k and k != 1:
        # (k + a s)^-b = k^-b (1 + a / k s)^-b
        factor, alpha, k = k**-beta, alpha / k, 1.0
    # Programs differ in their default of alpha.
    param: dict[str, Any] = {"local_size": size, "alpha": alpha, "beta": beta, **({} if k == 1 else {"k": k})}
    top = writer.add("LRN", [blob], images, "", lrn_param=param)
    if factor != 1:
        top = powered(writer, top, "scale", scale=factor)
    return reshaped(writer, top, shape, "axes")


def _even_lrn(writer: NetWriter, blob: str, size: int, alpha: float, beta: float, k: float) -> str:
    """Caffe's LRN takes an odd number of channels: here a Convolution adds up squares, size // 2 of channels before."""
    images = writer.shape(blob)
    channel = np.arange(images[1])
    apart = channel - channel[:, None]
    near = ((apart >= -(size // 2)) & (apart < size - size // 2)).astype(np.float32)
    square = powered(writer, blob, "square", power=2)
    param: dict[str, Any] = {"num_output": images[1], "bias_term": False, "kernel_size": [1]}
    total = writer.add("Convolution", [square], images, "sum", [near[:, :, None, None]], convolution_param=param)
    factor = powered(writer, total, "factor", power=-beta, scale=alpha / size, shift=k)
    return writer.add("Eltwise", [blob, factor], images, eltwise_param={"operation": "PROD"})


@emits("standardize")
def standardize(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """MVN for the mean, then division by the deviation in steps, since MVN adds its eps to the deviation.

    What is normalised together becomes one channel of an image. A BatchNorm would be shorter, but it has one size of
    the batch.
    """
    shape, axes = node.output.shape, node["axes"]
    if axes == (1,) and len(shape) == 4:
        return _over_channels(writer, bottoms[0], node["eps"])
    images = (shape[0], math.prod(shape[1 : axes[0]]), *shape[axes[0] :]) if axes[0] else (1, 1, *shape)
    if len(images) != 4:
        images = (*images[:2], 1, math.prod(images[2:]))
    blob = reshaped(writer, bottoms[0], images, "image")
    centred = writer.add("MVN", [blob], images, "centred", mvn_param={"normalize_variance": False})
    square = powered(writer, centred, "square", power=2)
    param: dict[str, Any] = {"pool": "AVE", "global_pooling": True}
    variance = writer.add("Pooling", [square], (*images[:2], 1, 1), "variance", pooling_param=param)
    inverse = powered(writer, variance, "inverse", power=-0.5, shift=node["eps"])
    factor = reshaped(writer, inverse, images[:2], "factor")
    top = writer.add("Scale", [centred, factor], images, "", scale_param={"axis": 0})
    return reshaped(writer, top, shape, "shape")


def _over_channels(writer: NetWriter, blob: str, eps: float) -> str:
    """Mean and variance of the channels in each place by Convolutions of one cell."""
    shape = writer.shape(blob)
    channels = shape[1]
    mean = np.full((channels, channels, 1, 1), 1 / channels, np.float32)
    rest = np.eye(channels, dtype=np.float32)[:, :, None, None] - mean
    param: dict[str, Any] = {"num_output": channels, "bias_term": False, "kernel_size": [1]}
    centred = writer.add("Convolution", [blob], shape, "centred", [rest], convolution_param=param)
    square = powered(writer, centred, "square", power=2)
    variance = writer.add("Convolution", [square], shape, "variance", [mean], convolution_param=param)
    inverse = powered(writer, variance, "inverse", power=-0.5, shift=eps)
    return writer.add("Eltwise", [centred, inverse], shape, eltwise_param={"operation": "PROD"})


@emits("normalize")
def normalize(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Normalize, else x times (sum of squares)^-0.5."""
    shape, eps, scale = node.output.shape, node["eps"], node["scale"]
    if writer.dialect.has("Normalize") and len(shape) == 4:
        param: dict[str, Any] = {"across_spatial": False, "channel_shared": scale is None or scale.ndim == 0}
        if not math.isclose(eps, 1e-10):
            param["eps"] = eps
        blob = np.ones((), np.float32) if scale is None else scale
        return writer.add("Normalize", bottoms, shape, "", [blob], norm_param=param)
    square = powered(writer, bottoms[0], "square", power=2)
    one = (shape[0], 1, *shape[2:])
    images = shape if len(shape) == 4 else (*shape[:2], math.prod(shape[2:]), 1)
    weight = np.ones((1, shape[1], 1, 1), np.float32)
    param = {"num_output": 1, "bias_term": False, "kernel_size": [1]}
    total = writer.add(
        "Convolution",
        [reshaped(writer, square, images, "image")],
        (images[0], 1, *images[2:]),
        "sum",
        [weight],
        convolution_param=param,
    )
    inverse = powered(writer, total, "inverse", power=-0.5, shift=max(eps, 1e-24))
    spread = tiled(writer, reshaped(writer, inverse, one, "axes"), shape)
    suffix = "" if scale is None else "unit"
    top = writer.add("Eltwise", [bottoms[0], spread], shape, suffix, eltwise_param={"operation": "PROD"})
    if scale is not None and scale.ndim == 0:
        return powered(writer, top, "", scale=float(scale))
    return top if scale is None else writer.add("Scale", [top], shape, "", [scale])
