"""Convolutions, fully connected layers and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from caffe_bridge.convert.caffe_import.graph import Node
from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.convert.caffe_import.registry import emits
from caffe_bridge.convert.caffe_import.shapes import reshaped
from caffe_bridge.convert.caffe_import.writer import NetWriter
from caffe_bridge.layers.base import Shape


@emits("conv")
def conv(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Convolution; unequal padding makes the kernel larger, by zeros."""
    weight = _weights(node, "a filter")
    pads, fronts, backs = [], [], []
    for i, (begin, end) in enumerate(zip(node["begin"], node["end"])):
        size, window = node.inputs[0].shape[2 + i], node["dilation"][i] * (weight.shape[2 + i] - 1) + 1
        count = (size + begin + end - window) // node["stride"][i] + 1
        if (size + 2 * begin - window) // node["stride"][i] + 1 == count and size + 2 * begin >= window:
            pad, front, back = begin, 0, 0
        else:
            pad, front, back = max(begin, end), max(0, end - begin), max(0, begin - end)
        pads.append(pad)
        fronts.append(front)
        backs.append(back)
    if any(fronts) or any(backs):
        weight = _dilated(weight, node["dilation"])
        weight = np.pad(weight, [(0, 0), (0, 0), *zip(fronts, backs)])
        dilation: Sequence[int] = (1,) * len(pads)
    else:
        dilation = node["dilation"]
    return _filtered(writer, "Convolution", node, bottoms[0], weight, weight.shape[0], pads, dilation)


@emits("deconv")
def deconv(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Deconvolution; cells beyond Caffe's size, or unequal padding, make the kernel larger, by zeros."""
    weight = _weights(node, "a filter")
    dilation = node["dilation"]
    pads: list[int] = []
    fronts, backs = [], []
    for begin, end, extra in zip(node["begin"], node["end"], node["extra"]):
        back, front = max(0, begin - end + extra), max(0, end - begin - extra)
        pads.append(begin + front)
        fronts.append(front)
        backs.append(back)
    plain = writer.dialect.plain_deconvolution
    if any(fronts) or any(backs) or plain:
        weight = np.pad(_dilated(weight, dilation), [(0, 0), (0, 0), *zip(fronts, backs)])
        dilation = (1,) * len(pads)
    if plain and any(pads) and set(weight.shape[2:]) | set(node["stride"]) == {1}:
        # OpenCV overlooks the padding of such a one.
        weight, pads = np.pad(weight, [(0, 0), (0, 0), *[(1, 1)] * len(pads)]), [pad + 1 for pad in pads]
    outputs = weight.shape[1] * node["group"]
    return _filtered(writer, "Deconvolution", node, bottoms[0], weight, outputs, pads, dilation, plain)


def _weights(node: Node, what: str) -> np.ndarray:
    return np.asarray(node.inputs[1].constant(what), np.float32)


def _dilated(weight: np.ndarray, dilation: Sequence[int]) -> np.ndarray:
    """The same filter without dilation, zeros in its gaps."""
    spatial = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilation)]
    result = np.zeros((*weight.shape[:2], *spatial), weight.dtype)
    result[(slice(None), slice(None), *(slice(None, None, d) for d in dilation))] = weight
    return result


def _filtered(
    writer: NetWriter,
    type_: str,
    node: Node,
    bottom: str,
    weight: np.ndarray,
    outputs: int,
    pads: Sequence[int],
    dilation: Sequence[int],
    images: bool = False,
) -> str:
    """A filter; where it takes `images` only, a row is one of height 1."""
    shape = made = node.output.shape
    stride = node["stride"]
    if images and len(shape) == 3:
        bottom = reshaped(writer, bottom, _image(writer.shape(bottom)), "image")
        made, weight = _image(shape), weight[:, :, None]
        stride, pads, dilation = (1, *stride), (0, *pads), (1, *dilation)
    blobs = [weight, *(np.asarray(value.constant("a bias"), np.float32) for value in node.inputs[2:])]
    param: dict[str, Any] = {
        "num_output": outputs,
        **geometry(kernel_size=weight.shape[2:], stride=stride, pad=pads, dilation=dilation),
    }
    if len(blobs) == 1:
        param["bias_term"] = False
    if node["group"] > 1:
        param["group"] = node["group"]
    top = writer.add(type_, [bottom], made, blobs=blobs, convolution_param=param)
    return reshaped(writer, top, shape, "plain")


def _image(shape: Shape) -> Shape:
    return (*shape[:2], 1, shape[2])


def geometry(**rows: Sequence[int]) -> dict[str, Any]:
    """ConvolutionParameter's sizes as a person would write them: once if equal, left out if the default."""
    defaults = {"stride": 1, "pad": 0, "dilation": 1}
    param: dict[str, Any] = {}
    for name, row in rows.items():
        if all(size == row[0] for size in row):
            if row[0] != defaults.get(name):
                param[name] = [row[0]]
        elif len(row) == 2 and name != "dilation":
            stem = name.removesuffix("_size")
            param[f"{stem}_h"], param[f"{stem}_w"] = row
        else:
            param[name] = list(row)
    return param


@emits("dense")
def dense(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """InnerProduct."""
    blobs = [_weights(node, "the weights"), *(np.asarray(value.constant("a bias")) for value in node.inputs[2:])]
    param: dict[str, Any] = {"num_output": blobs[0].shape[0]}
    if len(blobs) == 1:
        param["bias_term"] = False
    if node["axis"] != 1:
        param["axis"] = node["axis"]
    return writer.add("InnerProduct", bottoms, node.output.shape, blobs=blobs, inner_product_param=param)


@emits("embed")
def embed(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Embed."""
    table = np.asarray(node.inputs[1].constant("the table"), np.float32)
    rows, width = table.shape
    param: dict[str, Any] = {"num_output": width, "input_dim": rows, "bias_term": False}
    return writer.add("Embed", bottoms[:1], node.output.shape, blobs=[table], embed_param=param)


@emits("depth_to_space")
def depth_to_space(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Deconvolution with filters that place each channel in its cell of the block."""
    (_, channels, _, _), block = node.inputs[0].shape, node["block"]
    outputs = channels // block**2
    weight = np.zeros((channels, 1 if node["channels_first"] else outputs, block, block), np.float32)
    for channel in range(channels):
        if node["channels_first"]:
            weight[channel, 0].flat[channel % block**2] = 1
        else:
            weight[channel, channel % outputs].flat[channel // outputs] = 1
    param: dict[str, Any] = {"num_output": outputs, "bias_term": False, "kernel_size": [block], "stride": [block]}
    if node["channels_first"]:
        param["group"] = outputs
    return writer.add("Deconvolution", bottoms, node.output.shape, blobs=[weight], convolution_param=param)


@emits("space_to_depth")
def space_to_depth(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Convolution with filters that take one cell of each block."""
    (_, channels, _, _), block = node.inputs[0].shape, node["block"]
    outputs = channels * block**2
    weight = np.zeros((outputs, 1 if node["channels_first"] else channels, block, block), np.float32)
    for output in range(outputs):
        if node["channels_first"]:
            weight[output, 0].flat[output % block**2] = 1
        else:
            weight[output, output % channels].flat[output // channels] = 1
    param: dict[str, Any] = {"num_output": outputs, "bias_term": False, "kernel_size": [block], "stride": [block]}
    if node["channels_first"]:
        param["group"] = channels
    return writer.add("Convolution", bottoms, node.output.shape, blobs=[weight], convolution_param=param)


@emits("layer")
def layer(writer: NetWriter, node: Node, bottoms: list[str]) -> list[str]:
    """The layer that was exported."""
    if not writer.dialect.expresses(node["param"]):
        raise Unsupported(f"is a {node['param'].type}, which {writer.dialect.name} lacks", "choose another --dialect")
    param = type(node["param"])()
    param.CopyFrom(node["param"])
    del param.bottom[:]
    param.bottom.extend(bottoms)
    return writer.add_layer(param, [value.shape for value in node.outputs], blobs=node["blobs"])
