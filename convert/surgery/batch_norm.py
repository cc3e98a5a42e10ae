"""Batch normalisation, scales and biases merged into the layer before them."""

from __future__ import annotations

from typing import Any

import numpy as np

from caffe_bridge.convert.model import Model
from caffe_bridge.convert.surgery.editing import (
    blobs_of,
    graph_of,
    inference_model,
    keep_layers,
    shared_layers,
    wiring_of,
)
from caffe_bridge.convert.surgery.linear import LINEAR, not_per_channel, scale_outputs
from caffe_bridge.convert.wiring import Wiring
from caffe_bridge.errors import CaffeError
from caffe_bridge.layers.bn import SegNetBN

AFFINE = ("BatchNorm", "BN", "Scale", "Bias")


class _Stays(CaffeError):
    """Why a layer cannot be merged."""


def fold_batch_norm(model: Model) -> tuple[Model, dict[str, str]]:
    """The net for TEST with BatchNorm, BN, Scale and Bias layers merged into the linear layer before them.

    That is a Convolution (also by its other names), Deconvolution or InnerProduct whose values nothing else reads and
    whose parameters no other layer shares. It gets a bias if it had none.

    Returns:
        the model, and for each such layer that stays the reason why.
    """
    model = inference_model(model)
    set_up = {node.name: node.layer for node in graph_of(model).nodes}
    stays: dict[str, str] = {}
    index = 0
    while index < len(model.definition.layer):
        layer = model.definition.layer[index]
        if layer.type not in AFFINE or layer.name in stays:
            index += 1
            continue
        try:
            _merge(model, index, set_up, wiring_of(model))
        except _Stays as reason:
            stays[layer.name] = str(reason)
    return model, stays


def _merge(model: Model, index: int, set_up: dict[str, Any], wiring: Wiring) -> None:
    layers = model.definition.layer
    layer, source = layers[index], wiring.sources[index][0]
    if source is None or layers[source[0]].type not in LINEAR:
        before = "nothing" if source is None else f"'{layers[source[0]].name}' ({layers[source[0]].type})"
        raise _Stays(f"before it is {before}, which is not linear in weights of its own")
    linear = layers[source[0]]
    if len(wiring.readers[source]) > 1:
        others = [layers[i].name for i in wiring.readers[source] if i != index]
        raise _Stays(f"layer '{others[0]}' reads the values of '{linear.name}' as well")
    for name in (linear.name, layer.name):
        if name in shared_layers(model):
            raise _Stays(f"layer '{name}' shares parameters with another layer")
    why = not_per_channel(set_up[linear.name])
    if why:
        raise _Stays(why)
    factor, term = _affine(model, layer, set_up[layer.name])
    scale_outputs(model, linear.name, set_up[linear.name], factor, term)
    linear.top[0] = layer.top[0]
    model.layers.pop(layer.name, None)
    keep_layers(model, set(range(len(layers))) - {index})


def _affine(model: Model, param: Any, layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """The factor and the term per channel that a layer applies."""
    blobs = blobs_of(model, param.name, len(layer.blobs))
    if param.type == "BatchNorm":
        if not layer.use_global_stats:
            raise _Stays("it takes the statistics of each batch")
        mean, variance, share = blobs
        weight = 1 / share[0] if share[0] else 0.0
        factor = 1 / np.sqrt(variance * weight + layer.eps)
        return factor, -mean * weight * factor
    if param.type == "BN":
        flat = [blob.reshape(-1) for blob in blobs]
        if not isinstance(layer, SegNetBN):
            slope, bias, mean, variance = flat
            factor = slope / np.sqrt(variance + layer.eps)
            return factor, bias - mean * factor
        if layer.learns:
            raise _Stays("it takes the statistics of each batch")
        return flat[0], flat[1]
    if len(param.bottom) > 1:
        raise _Stays("its factors or terms are a blob of the net")
    if blobs[0].ndim > 1 or (blobs[0].ndim == 1 and layer.axis != 1):
        raise _Stays("its factors or terms are not one for each channel")
    if param.type == "Bias":
        return np.ones(()), blobs[0]
    return blobs[0], blobs[1] if layer.with_bias else np.zeros(())
