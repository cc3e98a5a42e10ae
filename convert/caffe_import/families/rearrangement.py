"""Layers that move values without changing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from caffe_bridge.convert.caffe_import.families.linear_maps import mapped
from caffe_bridge.convert.caffe_import.graph import Node
from caffe_bridge.convert.caffe_import.powers import powered
from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.convert.caffe_import.registry import emits
from caffe_bridge.convert.caffe_import.resampling import chosen, empty
from caffe_bridge.convert.caffe_import.shapes import reshaped
from caffe_bridge.convert.caffe_import.writer import NetWriter
from caffe_bridge.layers.base import Shape

__all__ = ["reshaped", "sliced"]


@emits("reshape")
def reshape(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Flatten or Reshape."""
    return reshaped(writer, bottoms[0], node.output.shape, "")


@emits("concat")
def concat(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Concat."""
    fields: dict[str, Any] = {} if node["axis"] == 1 else {"concat_param": {"axis": node["axis"]}}
    blobs = [writer.blob(value) for value in node.inputs]
    return writer.add("Concat", blobs, node.output.shape, **fields)


@emits("split")
def split(writer: NetWriter, node: Node, bottoms: list[str]) -> list[str]:
    """Slice; parts that nobody reads are silenced."""
    param: dict[str, Any] = {} if node["axis"] == 1 else {"axis": node["axis"]}
    param["slice_point"] = [int(point) for point in np.cumsum(node["sizes"])[:-1]]
    tops = writer.add_many("Slice", bottoms, [value.shape for value in node.outputs], slice_param=param)
    unused = [top for top, value in zip(tops, node.outputs) if not value.users]
    if unused:
        writer.silence(unused)
    return tops


@emits("slice")
def slice_(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Slice; steps are a Convolution that takes single cells."""
    axis, start, stop, step = (node[key] for key in ("axis", "start", "stop", "step"))
    if step == 1:
        return sliced(writer, bottoms[0], axis, start, stop, "")
    shape = node.inputs[0].shape
    if len(shape) != 4 or axis < 2 or start >= 64:
        return mapped(writer, bottoms[0], {axis: chosen(shape[axis], range(start, stop, step))}, "")
    blob, count = bottoms[0], node.output.shape[axis]
    if (shape[axis] - start - 1) // step + 1 != count:
        blob = sliced(writer, blob, axis, 0, start + (count - 1) * step + 1, "part")
    kernel, strides = [1, 1], [1, 1]
    kernel[axis - 2], strides[axis - 2] = start + 1, step
    weight = np.zeros((shape[1], 1, *kernel), np.float32)
    weight[..., -1, -1] = 1
    return _depthwise(writer, blob, weight, node.output.shape, strides, [0, 0], "")


@emits("crop")
def crop(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Crop."""
    vertical, horizontal = node["offset"]
    offset = [vertical] if vertical == horizontal else [vertical, horizontal]
    fields: dict[str, Any] = {"crop_param": {"offset": offset}} if any(offset) else {}
    return writer.add("Crop", bottoms, node.output.shape, **fields)


def sliced(writer: NetWriter, blob: str, axis: int, start: int, stop: int, suffix: str) -> str:
    """Cells start to stop along an axis; the rest is silenced."""
    shape = writer.shape(blob)
    points = [point for point in (start, stop) if 0 < point < shape[axis]]
    if not points:
        return blob
    edges = [0, *points, shape[axis]]
    shapes = [(*shape[:axis], b - a, *shape[axis + 1 :]) for a, b in zip(edges, edges[1:])]
    param: dict[str, Any] = {} if axis == 1 else {"axis": axis}
    tops = writer.add_many("Slice", [blob], shapes, suffix, slice_param={**param, "slice_point": points})
    kept = tops[edges.index(start)]
    writer.silence([top for top in tops if top != kept])
    return kept


def _depthwise(
    writer: NetWriter,
    blob: str,
    weight: np.ndarray,
    shape: Shape,
    stride: Sequence[int],
    pad: Sequence[int],
    suffix: str,
) -> str:
    """A Convolution that treats every channel alike."""
    param: dict[str, Any] = {"num_output": len(weight), "group": len(weight), "bias_term": False}
    sizes = {"kernel": weight.shape[2:], "stride": stride, "pad": pad}
    for name, (height, width) in sizes.items():
        if height != width:
            param[f"{name}_h"], param[f"{name}_w"] = height, width
        elif name == "kernel" or height != (1 if name == "stride" else 0):
            param["kernel_size" if name == "kernel" else name] = [height]
    return writer.add("Convolution", [blob], shape, suffix, [weight], convolution_param=param)


@emits("pad")
def pad(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """A Convolution of one cell with padding; of other axes than an image's, a matrix."""
    begin, end, value = node["begin"], node["end"], node["value"]
    shape, blob = node.inputs[0].shape, bottoms[0]
    if not math.isfinite(value):
        raise Unsupported("pads by infinity", "only maximum pooling can take that in")
    if value:
        blob = powered(writer, blob, "shifted", shift=-value)
    suffix = "padded" if value else ""
    if len(shape) == 4 and not any((*begin[:2], *end[:2])):
        pads = [max(b, e) for b, e in zip(begin[2:], end[2:])]
        weight = np.zeros((shape[1], 1, *(abs(e - b) + 1 for b, e in zip(begin[2:], end[2:]))), np.float32)
        # The one cell that is taken lies where the smaller padding begins.
        place = [max(0, e - b) for b, e in zip(begin[2:], end[2:])]
        weight[:, 0, place[0], place[1]] = 1
        blob = _depthwise(writer, blob, weight, node.output.shape, [1, 1], pads, suffix)
    else:
        maps = {}
        for axis, size in enumerate(shape):
            if begin[axis] or end[axis]:
                matrix = empty(size + begin[axis] + end[axis], size)
                matrix[begin[axis] : begin[axis] + size] = np.eye(size)
                maps[axis] = matrix
        blob = mapped(writer, blob, maps, suffix)
    if value:
        blob = powered(writer, blob, "", shift=value)
    return blob


@emits("transpose")
def transpose(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Permute."""
    if not writer.dialect.has("Permute"):
        raise Unsupported(
            f"changes the order of axes to {node['order']}, for which {writer.dialect.name} has no layer",
            "choose --dialect ssd, or cut the net before it",
        )
    return writer.add("Permute", bottoms, node.output.shape, permute_param={"order": node["order"]})


@emits("shuffle")
def shuffle(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """ShuffleChannel, or a Convolution of one cell that deals the channels out."""
    shape, group = node.output.shape, node["group"]
    if writer.dialect.has("ShuffleChannel"):
        return writer.add("ShuffleChannel", bottoms, shape, shuffle_channel_param={"group": group})
    order = np.arange(shape[1]).reshape(group, -1).T.reshape(-1)
    return mapped(writer, bottoms[0], {1: chosen(shape[1], order.tolist())}, "")
