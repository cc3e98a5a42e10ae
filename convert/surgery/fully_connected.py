"""Fully connected layers cast to convolutions, so that a classifier slides over images of any size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from caffe_bridge import schema
from caffe_bridge.convert.model import Model
from caffe_bridge.convert.surgery.editing import (
    blobs_of,
    check_not_shared,
    graph_of,
    inference_model,
    keep_layers,
    layer_of,
    wiring_of,
)
from caffe_bridge.errors import CaffeError
from caffe_bridge.layers.base import Shape


def cast_to_convolution(model: Model, layers: Iterable[str] | None = None) -> Model:
    """The net for TEST with InnerProduct layers as Convolutions of the same numbers; all of them, or those named.

    A layer that reads (N, C, H, W) gets kernels of H x W cells, one that reads such a layer's values kernels of one.
    Flatten layers in between go. The values of these layers, and what is computed from them, become (N, C, 1, 1) for
    images of the size they were made for, and maps for larger ones. This is the net surgery of Caffe's examples,
    except that layers keep their names.

    Raises CaffeError naming the layer that cannot be cast, and LayerError for one that does not take maps.
    """
    model = inference_model(model)
    graph = graph_of(model)
    chosen = {layer.name for layer in model.definition.layer if layer.type == "InnerProduct"}
    if layers is not None:
        names = set(layers)
        for name in sorted(names - chosen):
            found = layer_of(model, name).type
            raise CaffeError(f"{model.path}: layer '{name}' is a {found}, not an InnerProduct")
        chosen = names
    check_not_shared(model, chosen, "it cannot be cast to a convolution")
    for name in chosen:
        _drop_flatten(model, name)
    for layer in model.definition.layer:
        if layer.name in chosen:
            _cast(model, layer, graph.shapes)
    _check_shapes(model, graph.shapes)
    return model


def _drop_flatten(model: Model, name: str) -> None:
    """Let a layer read what a Flatten before it reads, if no other layer needs that."""
    wiring, layers = wiring_of(model), model.definition.layer
    index = next(i for i, layer in enumerate(layers) if layer.name == name)
    source = wiring.sources[index][0]
    if source is None or layers[source[0]].type != "Flatten" or len(wiring.readers[source]) > 1:
        return
    layers[index].bottom[0] = layers[source[0]].bottom[0]
    keep_layers(model, set(range(len(layers))) - {source[0]})


def _cast(model: Model, layer: Any, shapes: dict[str, Shape]) -> None:
    param, shape = layer.inner_product_param, shapes[layer.bottom[0]]
    where = f"layer '{layer.name}' cannot be cast to a convolution"
    if param.axis not in (1, 1 - len(shape)):
        raise CaffeError(f"{where}: it has axis {param.axis}, and not 1")
    if len(shape) not in (2, 4):
        raise CaffeError(f"{where}: it reads a blob of shape {shape}; (N, C, H, W) or (N, C) is needed")
    kernel = shape[2:] or (1, 1)
    weight, *bias = blobs_of(model, layer.name, 1 + param.bias_term)
    weight = weight.T if param.transpose else weight
    weight = weight.reshape(param.num_output, shape[1], *kernel)
    model.layers[layer.name] = [blob.astype(np.float32) for blob in (weight, *bias)]
    made = schema.ConvolutionParameter(num_output=param.num_output, bias_term=param.bias_term)
    made.kernel_size.extend(kernel[:1] if kernel[0] == kernel[1] else kernel)
    for filler in ("weight_filler", "bias_filler"):
        if param.HasField(filler):
            getattr(made, filler).CopyFrom(getattr(param, filler))
    layer.type = "Convolution"
    layer.ClearField("inner_product_param")
    layer.convolution_param.CopyFrom(made)


def _check_shapes(model: Model, before: dict[str, Shape]) -> None:
    """Every blob keeps its shape or gets two axes of 1; CaffeError names the layer where one does not."""
    graph = graph_of(model)
    for node in graph.nodes:
        for blob in node.tops:
            if graph.shapes[blob] not in (before[blob], (*before[blob], 1, 1)):
                raise CaffeError(
                    f"layer '{node.name}' ({node.type}) does not take maps: its top '{blob}' would be "
                    f"{graph.shapes[blob]} instead of {before[blob]}; cut the net before it, or name the layers to cast"
                )
