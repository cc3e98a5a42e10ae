"""Padding, resizing and the shuffling of cells: ONNX operators as those of operators.py."""

from __future__ import annotations

import math

import numpy as np

from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.onnx_node import OnnxNode
from caffe_bridge.convert.caffe_import.onnx_operators.registry import Inputs, constants, converts, optional
from caffe_bridge.convert.caffe_import.problems import Unsupported


@converts("Pad")
def pad(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Cells around a value."""
    x, arrays = inputs[0], constants(inputs)
    pads = node.ints_of(arrays, 1, "pads")
    ndim = len(x.shape)
    axes = node.optional_ints(arrays, 3, "axes") or list(range(ndim))
    if len(pads) != 2 * len(axes):
        raise Unsupported(f"has {len(pads)} pads for {len(axes)} axes")
    begin, end = [0] * ndim, [0] * ndim
    for i, axis in enumerate(axes):
        begin[b.axis(axis, ndim)], end[b.axis(axis, ndim)] = pads[i], pads[i + len(axes)]
    given = optional(arrays, 2)
    value = node.get("value", 0.0) if given is None else float(np.asarray(given).reshape(-1)[0])
    return b.pad(x, begin, end, node.get("mode", "constant"), value)


@converts("Resize", "Upsample")
def resize(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Interpolation."""
    x, arrays = inputs[0], constants(inputs)
    mode = node.get("mode", "nearest")
    old = node.operator == "Upsample" or node.opset == 10
    given = arrays[1 if old else 2] if len(arrays) > (1 if old else 2) else None
    scales = [float(s) for s in (node.get("scales", ()) if given is None else np.asarray(given).reshape(-1))]
    wanted = None if old else node.optional_ints(arrays, 3, "sizes")
    if any(value is not None and value.array is None for value in inputs[1:]):
        raise Unsupported("resizes to a size that is computed at run time", "export with fixed shapes")
    if mode not in ("nearest", "linear", "cubic") or node.get("antialias", 0) or node.get("exclude_outside", 0):
        raise Unsupported(f"resizes by '{mode}' in a way that is not supported")
    if mode == "cubic" and node.get("cubic_coeff_a", -0.75) != -0.75:
        raise Unsupported("has another cubic coefficient than -0.75")
    if not wanted and not scales or node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unsupported("says neither sizes nor scales, or keeps the aspect ratio")
    axes = [b.axis(axis, len(x.shape)) for axis in node.ints("axes", range(len(x.shape)))]
    if len(axes) != len(wanted or scales):
        raise Unsupported(f"has {len(wanted or scales)} sizes for {len(axes)} axes")
    sizes, factors = list(x.shape), [1.0] * len(x.shape)
    for i, axis in enumerate(axes):
        sizes[axis] = wanted[i] if wanted else math.floor(x.shape[axis] * _finite(scales[i]))
        factors[axis] = sizes[axis] / x.shape[axis] if wanted else scales[i]
    coordinates = "asymmetric" if old else node.get("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if old else node.get("nearest_mode", "round_prefer_floor")
    return b.resize(x, sizes, factors, mode, coordinates, rounding)


def _finite(scale: float) -> float:
    if not 0 < scale < 2**31:
        raise Unsupported(f"resizes by {scale}")
    return scale


@converts("DepthToSpace")
def depth_to_space(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Channels to blocks of cells."""
    return b.add("depth_to_space", inputs[0], block=node["blocksize"], channels_first=node.get("mode", "DCR") == "CRD")


@converts("SpaceToDepth")
def space_to_depth(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Blocks of cells to channels."""
    return b.add("space_to_depth", inputs[0], block=node["blocksize"], channels_first=False)
