"""Layers that are linear: a factor and a term per channel, before them or behind, can become part of their weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from caffe_bridge.convert.model import Model
from caffe_bridge.convert.surgery.editing import blobs_of

CONVOLUTIONS = ("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")
LINEAR = (*CONVOLUTIONS, "Deconvolution", "InnerProduct")


def not_per_channel(layer: Any) -> str:
    """Why the tops' axis 1 is not the axis of the layer's outputs; "" where it is."""
    if layer.axis != 1:
        return f"layer '{layer.param.name}' has axis {layer.axis}, and not 1 as its channels"
    if len(layer.param.top) != 1:
        return f"layer '{layer.param.name}' has several tops"
    return ""


def scale_outputs(model: Model, name: str, layer: Any, factor: np.ndarray, term: np.ndarray) -> None:
    """Make a linear layer compute `factor * y + term` per channel instead of y.

    Args:
        name: of a layer whose type is one of LINEAR.
        layer: the same, set up.
        factor, term: (channels,) or scalars.
    """
    param = next(own for own in model.definition.layer if own.name == name)
    options = param.inner_product_param if param.type == "InnerProduct" else param.convolution_param
    weight, *bias = blobs_of(model, name, 1 + options.bias_term)
    factor = np.broadcast_to(factor, (layer.outputs,))
    weight = _scaled(param.type, layer, weight, factor)
    shift = (bias[0] * factor if bias else 0) + np.broadcast_to(term, (layer.outputs,))
    options.bias_term = True
    model.layers[name] = [weight.astype(np.float32), shift.astype(np.float32)]


def _scaled(type_name: str, layer: Any, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    if type_name == "InnerProduct":
        return weight * (factor if layer.transpose else factor[:, None])
    if type_name != "Deconvolution":
        return weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    groups = weight.reshape(layer.group, -1, *weight.shape[1:])
    spread = factor.reshape(layer.group, 1, weight.shape[1], *[1] * (weight.ndim - 2))
    return (groups * spread).reshape(weight.shape)


def scale_inputs(model: Model, name: str, layer: Any, factor: np.ndarray, term: np.ndarray, inner: int) -> None:
    """Make a linear layer, not a Deconvolution, compute on x what it computed on `factor * x + term` per channel.

    Args:
        factor, term: (channels,).
        inner: cells of each channel that an InnerProduct layer reads.

    The term is exact where the layer reads no padding.
    """
    param = next(own for own in model.definition.layer if own.name == name)
    options = param.inner_product_param if param.type == "InnerProduct" else param.convolution_param
    weight, *bias = blobs_of(model, name, 1 + options.bias_term)
    if param.type == "InnerProduct":
        rows = weight.T if layer.transpose else weight
        by_channel = rows.reshape(layer.outputs, -1, inner)
        shift = np.einsum("oci,c->o", by_channel, term)
        rows = (by_channel * factor[:, None]).reshape(rows.shape)
        weight = rows.T if layer.transpose else rows
    else:
        own = np.arange(layer.outputs) // (layer.outputs // layer.group)
        channels = own[:, None] * weight.shape[1] + np.arange(weight.shape[1])  # (outputs, channels / group)
        shift = (weight.reshape(*weight.shape[:2], -1).sum(2) * term[channels]).sum(1)
        weight = weight * factor[channels].reshape(*channels.shape, *[1] * (weight.ndim - 2))
    blobs = [weight.astype(np.float32)]
    if bias or shift.any():
        options.bias_term = True
        blobs.append(((bias[0] if bias else 0) + shift).astype(np.float32))
    model.layers[name] = blobs
