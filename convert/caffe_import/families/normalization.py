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
    if size < 1 or size % 2 == 0:
        raise Unsupported(f"normalises over {size} channels", "Caffe's LRN takes an odd number")
    images = shape if len(shape) == 4 else (*shape[:2], 1, math.prod(shape[2:]))
    blob = reshaped(writer, bottoms[0], images, "image")
    factor = 1.0
    if not writer.dialect.lrn_k and k != 1:
        # (k + a s)^-b = k^-b (1 + a / k s)^-b
        factor, alpha, k = k**-beta, alpha / k, 1.0
    defaults = (("local_size", size, 5), ("alpha", alpha, 1), ("beta", beta, 0.75), ("k", k, 1))
    param = {key: value for key, value, default in defaults if value != default}
    fields: dict[str, Any] = {"lrn_param": param} if param else {}
    top = writer.add("LRN", [blob], images, "", **fields)
    if factor != 1:
        top = powered(writer, top, "scale", scale=factor)
    return reshaped(writer, top, shape, "axes")


@emits("standardize")
def standardize(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """BatchNorm with the statistics of what it is given, of an image whose channels are what is normalised.

    Where its eps is added to the deviation: MVN for the mean, and division by the deviation in steps.
    """
    shape, axes = node.output.shape, node["axes"]
    images = (1, math.prod(shape[: axes[0]]), *shape[axes[0] :])
    if len(images) != 4:
        images = (*images[:2], 1, math.prod(images[2:]))
    if shape[0] == 1 and axes[0] == 2 and len(shape) == 4:
        images = shape
    blob = reshaped(writer, bottoms[0], images, "image", free=1)
    if not writer.dialect.batch_statistics:
        return reshaped(writer, _divided(writer, blob, node["eps"]), shape, "shape")
    param: dict[str, Any] = {"use_global_stats": False}
    if not math.isclose(node["eps"], 1e-5, rel_tol=1e-6):
        param["eps"] = node["eps"]
    # In TEST these are not read, but every BatchNorm has them.
    unused = [np.zeros(images[1], np.float32), np.zeros(images[1], np.float32), np.zeros(1, np.float32)]
    top = writer.add("BatchNorm", [blob], images, "", unused, batch_norm_param=param)
    return reshaped(writer, top, shape, "shape")


def _divided(writer: NetWriter, blob: str, eps: float) -> str:
    images = writer.shape(blob)
    centred = writer.add("MVN", [blob], images, "centred", mvn_param={"normalize_variance": False})
    square = powered(writer, centred, "square", power=2)
    param: dict[str, Any] = {"pool": "AVE", "global_pooling": True}
    variance = writer.add("Pooling", [square], (*images[:2], 1, 1), "variance", pooling_param=param)
    inverse = powered(writer, variance, "inverse", power=-0.5, shift=eps)
    factor = reshaped(writer, inverse, images[:2], "factor")
    return writer.add("Scale", [centred, factor], images, "", scale_param={"axis": 0})


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
    images = (*shape[:2], *shape[2:], *(1,) * (4 - len(shape)))
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
