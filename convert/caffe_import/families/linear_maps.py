"""Resizing and everything else that is a matrix along an axis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from caffe_bridge.convert.caffe_import.graph import Node
from caffe_bridge.convert.caffe_import.registry import emits
from caffe_bridge.convert.caffe_import.resampling import aligns_corners, repetition
from caffe_bridge.convert.caffe_import.shapes import reshaped
from caffe_bridge.convert.caffe_import.writer import NetWriter
from caffe_bridge.layers.base import Shape


@emits("linear")
def linear(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Repeated cells by Upsample or Deconvolution, aligned corners by Interp, else InnerProduct and Convolution."""
    maps, shape = node["maps"], node.inputs[0].shape
    if len(shape) == 4 and set(maps) <= {2, 3}:
        times = [repetition(maps[axis]) if axis in maps else 1 for axis in (2, 3)]
        if all(times):
            return _enlarged(writer, bottoms[0], times, node.output.shape)
        aligned = all(aligns_corners(maps[axis]) for axis in maps)
        if aligned and writer.dialect.has("Interp"):
            height, width = node.output.shape[2:]
            return writer.add("Interp", bottoms, node.output.shape, interp_param={"height": height, "width": width})
    return mapped(writer, bottoms[0], maps, "")


def _enlarged(writer: NetWriter, blob: str, times: list[int], shape: Shape) -> str:
    height, width = times
    if height == width and writer.dialect.has("Upsample"):
        return writer.add("Upsample", [blob], shape, upsample_param={"scale": height})
    channels = shape[1]
    weight = np.ones((channels, 1, height, width), np.float32)
    param: dict[str, Any] = {"num_output": channels, "group": channels, "bias_term": False}
    if height == width:
        param.update(kernel_size=[height], stride=[height])
    else:
        param.update(kernel_h=height, kernel_w=width, stride_h=height, stride_w=width)
    return writer.add("Deconvolution", [blob], shape, "", [weight], convolution_param=param)


def mapped(writer: NetWriter, blob: str, maps: Mapping[int, np.ndarray], suffix: str) -> str:
    """Matrices (out, in) along axes: an InnerProduct along the last, Convolutions of one cell along others."""
    for i, (axis, matrix) in enumerate(sorted(maps.items(), reverse=True)):
        shape = writer.shape(blob)
        wanted = (*shape[:axis], len(matrix), *shape[axis + 1 :])
        last = i == len(maps) - 1
        ending = suffix if last else f"axis{axis}"
        if axis == len(shape) - 1 and axis > 0:
            param: dict[str, Any] = {"num_output": len(matrix), "axis": axis, "bias_term": False}
            blob = writer.add("InnerProduct", [blob], wanted, ending, [matrix], inner_product_param=param)
            continue
        images = (
            shape
            if axis == 1 and len(shape) == 4
            else (math.prod(shape[:axis]), shape[axis], 1, math.prod(shape[axis + 1 :]))
        )
        made = (images[0], len(matrix), *images[2:])
        param = {"num_output": len(matrix), "bias_term": False, "kernel_size": [1]}
        rows = reshaped(writer, blob, images, "rows")
        inner = ending if made == wanted else f"axis{axis}"
        top = writer.add("Convolution", [rows], made, inner, [matrix[:, :, None, None]], convolution_param=param)
        blob = reshaped(writer, top, wanted, ending)
    return blob
