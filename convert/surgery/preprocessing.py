"""What is done to images before a net, done by the net: mean, scale and the order of the channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from caffe_bridge import schema
from caffe_bridge.convert.model import Model
from caffe_bridge.convert.surgery.editing import (
    blobs_of,
    check_not_shared,
    free_name,
    graph_of,
    inference_model,
    insert_layer,
    shared_layers,
    wiring_of,
)
from caffe_bridge.convert.surgery.linear import CONVOLUTIONS, scale_inputs
from caffe_bridge.convert.wiring import Place
from caffe_bridge.errors import CaffeError
from caffe_bridge.graph import Graph

_PER_CHANNEL = ("Scale", "Bias", "BatchNorm")
_ELEMENTWISE = ("Power", "Dropout", "ReLU", "Split")


def include_preprocessing(
    model: Model, mean: Sequence[float] | np.ndarray | None = None, scale: float | Sequence[float] = 1.0
) -> Model:
    """The net for TEST that takes x where it took (x - mean) * scale.

    Args:
        mean: one number, one per channel in the order of the net's input, or an image (C, H, W) of the input's size.
        scale: one number, or one per channel.

    Both go into the weights of the layers that read the image where that is exact: Convolutions without padding and
    InnerProducts. Padding stands for the mean, but would be 0 before it is taken off: there, and in front of any other
    layer, a Scale layer is put before the net instead. A scale alone is always exact for these layers. A mean that
    differs from cell to cell is a Bias layer.

    Raises CaffeError when the net has no image input, or numbers do not fit its channels.
    """
    model = inference_model(model)
    graph = graph_of(model)
    image = image_input(model, graph)
    channels, *size = graph.shapes[image][1:]
    factor = _per_channel("scale", scale, channels)
    if not factor.all():
        raise CaffeError("a scale of 0 would leave nothing of the image")
    offset = np.zeros(1) if mean is None else np.asarray(mean, np.float64)
    if offset.ndim == 3:
        if offset.shape != (channels, *size):
            raise CaffeError(f"the mean is an image of shape {offset.shape}, input '{image}' is {(channels, *size)}")
        _put_before(model, image, schema.LayerParameter(type="Bias"), [-offset], axes=3)
        term = np.zeros(channels)
        image = model.definition.layer[_entry(model, image)[0] + 1].top[0]
        graph = graph_of(model)
    else:
        term = -_per_channel("mean", offset, channels) * factor
    if _exact(model, graph, image, term):
        inner = int(np.prod(size))
        for i in wiring_of(model).readers[_entry(model, image)]:
            node = graph.nodes[i]
            scale_inputs(model, node.name, node.layer, factor, term, inner)
    else:
        layer = schema.LayerParameter(type="Scale")
        layer.scale_param.bias_term = True
        _put_before(model, image, layer, [factor, term], axes=1)
    return model


def image_input(model: Model, graph: Graph) -> str:
    """The input that is an image (N, C, H, W). Raises CaffeError unless there is just one."""
    images = [name for name in graph.inputs if len(graph.shapes[name]) == 4]
    if len(images) != 1:
        found = ", ".join(images) or "none"
        raise CaffeError(
            f"{model.path}: one input (N, C, H, W) is needed to change what is done to images; has {found}"
        )
    return images[0]


def _per_channel(what: str, numbers: float | Sequence[float] | np.ndarray, channels: int) -> np.ndarray:
    array = np.asarray(numbers, np.float64).reshape(-1)
    if len(array) not in (1, channels):
        raise CaffeError(f"{what} has {len(array)} numbers, the net's input {channels} channels")
    if not np.isfinite(array).all():
        raise CaffeError(f"{what} {', '.join(f'{number:g}' for number in array)} is not finite")
    return np.broadcast_to(array, (channels,)).copy()


def _entry(model: Model, blob: str) -> Place:
    """The place that makes a blob first: layers may change it in place later."""
    for i, layer in enumerate(model.definition.layer):
        if blob in layer.top:
            return i, list(layer.top).index(blob)
    raise AssertionError(blob)


def _exact(model: Model, graph: Graph, image: str, term: np.ndarray) -> bool:
    """Whether all layers that read the image can take a factor and a term into their weights."""
    readers = wiring_of(model).readers[_entry(model, image)]
    for i in readers:
        node = graph.nodes[i]
        layer: Any = node.layer
        linear = node.type in CONVOLUTIONS or node.type == "InnerProduct"
        if not linear or layer.axis != 1 or len(node.tops) > 1 or node.name in shared_layers(model):
            return False
        if node.type != "InnerProduct" and term.any() and (any(layer.pad) or _overhangs(layer, graph.shapes[image])):
            return False
    return bool(readers)


def _overhangs(layer: Any, shape: tuple[int, ...]) -> bool:
    extents = (dilation * (kernel - 1) + 1 for kernel, dilation in zip(layer.kernel, layer.dilation))
    return any(extent > length for extent, length in zip(extents, shape[2:]))


def _put_before(model: Model, image: str, layer: Any, blobs: list[np.ndarray], axes: int) -> None:
    """Let a Scale or Bias layer with these blobs read the image, and everything else what that makes."""
    layers = model.definition.layer
    for other in layers:
        if image in other.top and image in other.bottom:
            raise CaffeError(f"layer '{other.name}' changes input '{image}' in place; give its top another name first")
    layer.name = free_name(model, f"{image}_{layer.type.lower()}")
    layer.bottom.append(image)
    layer.top.append(layer.name)
    if layer.type == "Bias":
        layer.bias_param.num_axes = axes
    for other in layers:
        other.bottom[:] = [layer.name if blob == image else blob for blob in other.bottom]
    insert_layer(model, _entry(model, image)[0] + 1, layer)
    model.layers = {layer.name: [blob.astype(np.float32) for blob in blobs], **model.layers}


def swap_channels(model: Model) -> Model:
    """The net for TEST that takes images with their channels in reverse: RGB where it took BGR.

    The weights of the layers that read the image are reordered, with padding or without.

    Raises CaffeError naming a layer that cannot follow: a grouped convolution, or one that mixes channels otherwise.
    """
    model = inference_model(model)
    graph = graph_of(model)
    image = image_input(model, graph)
    wiring = wiring_of(model)
    inner = int(np.prod(graph.shapes[image][2:]))
    waiting = list(wiring.readers[_entry(model, image)])
    for i in waiting:
        node = graph.nodes[i]
        if node.type in _ELEMENTWISE:
            waiting += [reader for j in range(len(node.tops)) for reader in wiring.readers[i, j]]
            continue
        check_not_shared(model, [node.name], "its channels cannot be reordered")
        _reverse(model, node.name, node.type, node.layer, inner)
        if node.type in _PER_CHANNEL:
            waiting += wiring.readers[i, 0]
    return model


def _reverse(model: Model, name: str, type_name: str, layer: Any, inner: int) -> None:
    """Reverse the order of the channels that a layer reads."""
    blobs = model.layers.get(name, [])
    if type_name in CONVOLUTIONS and layer.group == 1 and layer.axis == 1:
        weight = blobs_of(model, name, 1)[0]
        model.layers[name] = [weight[:, ::-1].astype(np.float32), *blobs[1:]]
    elif type_name == "InnerProduct" and layer.axis == 1:
        weight = blobs_of(model, name, 1)[0]
        rows = weight.T if layer.transpose else weight
        rows = rows.reshape(layer.outputs, -1, inner)[:, ::-1].reshape(rows.shape)
        model.layers[name] = [(rows.T if layer.transpose else rows).astype(np.float32), *blobs[1:]]
    elif type_name in _PER_CHANNEL and len(layer.param.bottom) == 1 and layer.blobs[0].ndim in (1, 3):
        own = blobs_of(model, name, len(layer.blobs))
        model.layers[name] = [blob[::-1].astype(np.float32) if len(blob) > 1 else blob for blob in own]
    else:
        grouped = " with groups" if getattr(layer, "group", 1) > 1 else ""
        raise CaffeError(f"layer '{name}' ({type_name}{grouped}) reads the image; its channels cannot be reordered")
