"""Layers that combine blobs, and scales and shifts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from caffe_bridge.convert.caffe_import.families.rearrangement import reshaped
from caffe_bridge.convert.caffe_import.graph import Node
from caffe_bridge.convert.caffe_import.powers import powered
from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.convert.caffe_import.registry import emits
from caffe_bridge.convert.caffe_import.separation import per_channel
from caffe_bridge.convert.caffe_import.writer import NetWriter
from caffe_bridge.layers.base import Shape

_MOST = 1 << 26


@emits("affine")
def affine(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Scale or Bias with learned blobs, over the axes that the constants vary along."""
    shape = node.output.shape
    scale, shift = node["scale"], node["shift"]
    arrays = [
        array.reshape((1,) * (len(shape) - array.ndim) + array.shape) for array in (scale, shift) if array is not None
    ]
    varying = [i for i, size in enumerate(shape) if any(array.shape[i] > 1 for array in arrays)]
    # One number for all: an axis of one element, if there is any, carries it.
    first, last = (varying[0], varying[-1]) if varying else (min(1, len(shape) - 1), min(1, len(shape) - 1))
    inner = shape[first : last + 1]
    if math.prod(inner) > _MOST:
        raise Unsupported(f"adds or multiplies by a constant of {math.prod(inner)} numbers")
    place = tuple(slice(None) if first <= i <= last else 0 for i in range(len(shape)))
    filled = [np.broadcast_to(array, shape)[place] for array in arrays]
    blobs = [np.ascontiguousarray(array, np.float32) for array in filled]
    return _scaled(writer, node, bottoms[0], blobs, first, scale is not None, shift is not None)


def _scaled(
    writer: NetWriter,
    node: Node,
    bottom: str,
    blobs: list[np.ndarray],
    axis: int,
    scales: bool,
    shifts: bool,
    suffix: str = "",
) -> str:
    where: dict[str, Any] = {}
    if axis != 1:
        where["axis"] = axis
    if blobs[0].ndim != 1:
        where["num_axes"] = blobs[0].ndim
    shape = node.output.shape
    bottom = per_channel(writer, bottom, axis, blobs[0].ndim)
    made = writer.shape(bottom)
    if not scales and writer.dialect.has("Bias"):
        return writer.add("Bias", [bottom], shape, suffix, blobs, bias_param=where)
    if not scales:
        blobs = [np.ones_like(blobs[0]), *blobs]
    if shifts:
        where["bias_term"] = True
    top = writer.add("Scale", [bottom], made, suffix, blobs, scale_param=where)
    return reshaped(writer, top, shape, "axes")


@emits("batch_norm")
def batch_norm(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """BatchNorm and Scale."""
    scale, shift, mean, variance = (np.asarray(value.array, np.float32) for value in node.inputs[1:])
    fields: dict[str, Any] = (
        {} if math.isclose(node["eps"], 1e-5, rel_tol=1e-6) else {"batch_norm_param": {"eps": node["eps"]}}
    )
    blobs = [mean, variance, np.ones(1, np.float32)]
    bottom = per_channel(writer, bottoms[0])
    top = writer.add("BatchNorm", [bottom], writer.shape(bottom), blobs=blobs, **fields)
    if (scale != 1).any() or (shift != 0).any():
        param: dict[str, Any] = {"bias_term": True}
        top = writer.add("Scale", [top], writer.shape(bottom), "scale", [scale, shift], scale_param=param)
    return reshaped(writer, top, node.output.shape, "axes")


_COMMUTATIVE = {"add": "Bias", "mul": "Scale"}


@emits("add", "sub", "mul", "div", "max", "min")
def binary(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Eltwise; Scale, Bias or MaskPooling where the smaller blob is spread over the larger; or Tile before Eltwise."""
    blobs = [writer.blob(value) for value in node.inputs]
    operator, shape = node.operator, node.output.shape
    if operator == "div":
        blobs[1] = powered(writer, blobs[1], "inverse", power=-1)
        operator = "mul"
    if operator == "min":
        blobs = [_negative(writer, blob) for blob in blobs]
    if operator in _COMMUTATIVE:
        for large, small in (blobs, blobs[::-1]):
            if writer.shape(large) == shape != writer.shape(small):
                axis = _spread_axis(shape, writer.shape(small))
                if axis is not None and writer.dialect.has(_COMMUTATIVE[operator]):
                    return _two_bottoms(writer, node, large, small, *axis, _COMMUTATIVE[operator])
                masks = len(shape) == 4 and writer.shape(small) == (shape[0], 1, *shape[2:])
                if masks and operator == "mul" and writer.dialect.has("MaskPooling"):
                    return writer.add("MaskPooling", [large, small], shape)
    blobs = [tiled(writer, blob, shape) for blob in blobs]
    suffix = "max" if operator == "min" else ""
    param: dict[str, Any] = {}
    if operator == "sub":
        param = {"operation": "SUM", "coeff": [1, -1]}
    elif operator != "add":
        param = {"operation": "PROD" if operator == "mul" else "MAX"}
    fields: dict[str, Any] = {"eltwise_param": param} if param else {}
    top = writer.add("Eltwise", blobs, shape, suffix, **fields)
    return _negative(writer, top, "") if operator == "min" else top


def _negative(writer: NetWriter, blob: str, suffix: str = "negative") -> str:
    return powered(writer, blob, suffix, scale=-1)


def _spread_axis(large: Shape, small: Shape) -> tuple[int, Shape] | None:
    """(axis, shape of the small blob from there on) if it is spread over other axes than one run of its own."""
    small = (1,) * (len(large) - len(small)) + small
    own = [i for i, size in enumerate(small) if size > 1]
    first = 0 if small[0] == large[0] else (own[0] if own else 0)
    last = own[-1] if own else first
    last = max(first, last)
    if any(small[i] != large[i] for i in range(first, last + 1)):
        return None
    return first, small[first : last + 1]


def _two_bottoms(writer: NetWriter, node: Node, large: str, small: str, axis: int, inner: Shape, type_: str) -> str:
    if writer.shape(small) != inner:
        small = reshaped(writer, small, inner, "flat")
    param: dict[str, Any] = {"axis": axis} if axis != 1 else {}
    fields: dict[str, Any] = {"scale_param" if type_ == "Scale" else "bias_param": param} if param else {}
    return writer.add(type_, [large, small], node.output.shape, **fields)


@emits("expand")
def expand(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Tile, once for each axis."""
    return tiled(writer, bottoms[0], node.output.shape, "")


def tiled(writer: NetWriter, blob: str, shape: Shape, suffix: str = "tiled") -> str:
    """A blob broadcast to a shape."""
    found = writer.shape(blob)
    if len(found) < len(shape):
        blob = reshaped(writer, blob, (1,) * (len(shape) - len(found)) + found, "axes")
        found = writer.shape(blob)
    for axis, (size, wanted) in enumerate(zip(found, shape)):
        if size != wanted:
            blob = repeated(writer, blob, axis, wanted, suffix)
    return blob


@emits("tile")
def tile(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Tile, once for each axis."""
    top = bottoms[0]
    for axis, times in enumerate(node["repeats"]):
        if times != 1:
            top = repeated(writer, top, axis, times, "")
    return top


def repeated(writer: NetWriter, blob: str, axis: int, times: int, suffix: str) -> str:
    """A blob several times along an axis: Tile, or Concat where there is no Tile."""
    shape = writer.shape(blob)
    wanted = (*shape[:axis], shape[axis] * times, *shape[axis + 1 :])
    if writer.dialect.has("Tile"):
        param: dict[str, Any] = {"tiles": times} if axis == 1 else {"axis": axis, "tiles": times}
        return writer.add("Tile", [blob], wanted, suffix, tile_param=param)
    if times > 1024:
        raise Unsupported(f"repeats a blob {times} times, for which {writer.dialect.name} has no layer")
    fields: dict[str, Any] = {} if axis == 1 else {"concat_param": {"axis": axis}}
    return writer.add("Concat", [blob] * times, wanted, suffix, **fields)
