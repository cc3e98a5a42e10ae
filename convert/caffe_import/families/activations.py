"""Layers that compute each value from one value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from caffe_bridge.convert.caffe_import.graph import Node
from caffe_bridge.convert.caffe_import.powers import powered
from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.convert.caffe_import.registry import emits
from caffe_bridge.convert.caffe_import.separation import per_channel
from caffe_bridge.convert.caffe_import.shapes import reshaped
from caffe_bridge.convert.caffe_import.writer import NetWriter
from caffe_bridge.layers.base import Shape

_PLAIN = {
    "abs": "AbsVal",
    "exp": "Exp",
    "log": "Log",
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "softplus": "BNLL",
    "tanh": "TanH",
}


@emits(*_PLAIN)
def plain(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """ReLU, Sigmoid, TanH, AbsVal, Exp, Log or BNLL."""
    return writer.add(_PLAIN[node.operator], bottoms, node.output.shape)


@emits("leaky_relu")
def leaky_relu(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """ReLU with a negative_slope."""
    return writer.add("ReLU", bottoms, node.output.shape, relu_param={"negative_slope": node["slope"]})


@emits("prelu")
def prelu(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """PReLU, shared by the channels or not."""
    shape, slope = node.output.shape, np.asarray(node.inputs[1].array, np.float32)
    if slope.size == 1:
        param: dict[str, Any] = {"channel_shared": True}
        return writer.add("PReLU", bottoms[:1], shape, blobs=[slope.reshape(())], prelu_param=param)
    full = (1,) * (len(shape) - slope.ndim) + slope.shape
    if any(size != 1 for axis, size in enumerate(full) if axis != 1):
        raise Unsupported(f"has slopes of shape {slope.shape}", "Caffe's PReLU has one for each channel, or one")
    bottom = per_channel(writer, bottoms[0])
    top = writer.add("PReLU", [bottom], writer.shape(bottom), blobs=[slope.reshape(-1)])
    return reshaped(writer, top, shape, "axes")


@emits("elu")
def elu(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """ELU."""
    fields: dict[str, Any] = {} if node["alpha"] == 1 else {"elu_param": {"alpha": node["alpha"]}}
    return writer.add("ELU", bottoms, node.output.shape, **fields)


@emits("power")
def power(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Power."""
    return powered(writer, bottoms[0], "", **node.attributes)


@emits("clip")
def clip(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Clip or ReLU6 where the dialect has them, else ReLUs turned around: min(x, h) = h - relu(h - x)."""
    low, high, shape = node["low"], node["high"], node.output.shape
    if (low, high) == (0, 6) and writer.dialect.has("ReLU6"):
        return writer.add("ReLU6", bottoms, shape)
    if math.isfinite(low) and math.isfinite(high) and writer.dialect.has("Clip"):
        return writer.add("Clip", bottoms, shape, clip_param={"min": low, "max": high})
    if not low <= high:
        raise Unsupported(f"limits values to {low} and {high}")
    top = bottoms[0]
    both = math.isfinite(low) and math.isfinite(high)
    if math.isfinite(low):
        top = _above(writer, top, low, shape, "low" if both else "")
    if math.isfinite(high):
        top = powered(writer, top, "turned", scale=-1, shift=high)
        top = writer.add("ReLU", [top], shape, "high")
        top = powered(writer, top, "", scale=-1, shift=high)
    return top


def _above(writer: NetWriter, bottom: str, low: float, shape: Shape, suffix: str) -> str:
    """max(x, low) = relu(x - low) + low."""
    if low == 0:
        return writer.add("ReLU", [bottom], shape, suffix)
    top = powered(writer, bottom, "shifted", shift=-low)
    return powered(writer, writer.add("ReLU", [top], shape, "low"), "back" if suffix else "", shift=low)


@emits("swish")
def swish(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Swish, else x times Sigmoid."""
    shape, beta = node.output.shape, node["beta"]
    if writer.dialect.has("Swish"):
        fields: dict[str, Any] = {} if beta == 1 else {"swish_param": {"beta": beta}}
        return writer.add("Swish", bottoms, shape, **fields)
    inner = bottoms[0] if beta == 1 else powered(writer, bottoms[0], "scaled", scale=beta)
    return _gated(writer, node, bottoms[0], writer.add("Sigmoid", [inner], shape, "sigmoid"))


@emits("hard_swish")
def hard_swish(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """HardSwish, else x times a Power within Clip."""
    shape = node.output.shape
    if writer.dialect.has("HardSwish"):
        return writer.add("HardSwish", bottoms, shape)
    inner = powered(writer, bottoms[0], "line", scale=1 / 6, shift=0.5)
    if writer.dialect.has("Clip"):
        gate = writer.add("Clip", [inner], shape, "gate", clip_param={"min": 0, "max": 1})
    else:
        gate = writer.add("ReLU", [inner], shape, "low")
        gate = powered(writer, gate, "turned", scale=-1, shift=1)
        gate = powered(writer, writer.add("ReLU", [gate], shape, "high"), "gate", scale=-1, shift=1)
    return _gated(writer, node, bottoms[0], gate)


@emits("mish")
def mish(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Mish, else x times TanH of BNLL."""
    shape = node.output.shape
    if writer.dialect.has("Mish"):
        return writer.add("Mish", bottoms, shape)
    softplus = writer.add("BNLL", bottoms, shape, "softplus")
    return _gated(writer, node, bottoms[0], writer.add("TanH", [softplus], shape, "tanh"))


def _gated(writer: NetWriter, node: Node, bottom: str, gate: str) -> str:
    param: dict[str, Any] = {"operation": "PROD"}
    return writer.add("Eltwise", [bottom, gate], node.output.shape, eltwise_param=param)


@emits("softmax")
def softmax(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Softmax."""
    fields: dict[str, Any] = {} if node["axis"] == 1 else {"softmax_param": {"axis": node["axis"]}}
    return writer.add("Softmax", bottoms, node.output.shape, **fields)


@emits("argmax")
def argmax(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """ArgMax; of equal values Caffe takes the last one where others take the first."""
    return writer.add("ArgMax", bottoms, node.output.shape, argmax_param={"axis": node["axis"]})
