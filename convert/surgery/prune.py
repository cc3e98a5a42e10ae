"""Layers and weights that a net does not need to compute its outputs."""

from __future__ import annotations

from typing import Any

from caffe_bridge.convert.model import Model
from caffe_bridge.convert.surgery.editing import inference_model, keep_layers, wiring_of
from caffe_bridge.convert.wiring import Place

_TRAINING = ("Accuracy", "DetectionEvaluate", "HDF5Output", "Silence")


def prune(model: Model) -> Model:
    """The net for TEST without what its outputs do not need.

    These are losses and other layers for training and testing, Silence and all that is computed for these alone,
    inputs that nothing reads, Dropout and single Splits, which change nothing in TEST, and weights of layers that the
    definition does not have. Blobs keep their names where they are outputs.
    """
    model = inference_model(model)
    layers = model.definition.layer
    wiring = wiring_of(model)
    wanted = [place for place in wiring.unread() if not _for_training(layers[place[0]].type)]
    kept: set[int] = set()
    while wanted:
        i, _ = wanted.pop()
        if i not in kept and layers[i].type != "Input":
            kept.add(i)
            wanted += [source for source in wiring.sources[i] if source is not None]
    read = {blob for i in kept for blob in layers[i].bottom}
    for i, layer in enumerate(layers):
        if layer.type == "Input" and read.intersection(layer.top):
            kept.add(i)
            _keep_inputs(layer, read)
    keep_layers(model, kept)
    while _drop_identity(model):
        pass
    names = {layer.name for layer in model.definition.layer}
    model.layers = {name: blobs for name, blobs in model.layers.items() if name in names}
    return model


def _for_training(type_name: str) -> bool:
    return type_name.endswith("Loss") or type_name in (*_TRAINING, "Input")


def _keep_inputs(layer: Any, read: set[str]) -> None:
    """Drop the tops of an Input layer that nothing reads, with their shapes."""
    tops = list(layer.top)
    shapes = [list(shape.dim) for shape in layer.input_param.shape]
    kept = [i for i, top in enumerate(tops) if top in read]
    layer.top[:] = [tops[i] for i in kept]
    if len(shapes) == len(tops):
        del layer.input_param.shape[:]
        for i in kept:
            layer.input_param.shape.add(dim=shapes[i])


def _drop_identity(model: Model) -> bool:
    """Take out one Dropout or Split that gives its bottom another name at most; false where there is none."""
    wiring = wiring_of(model)
    layers = model.definition.layer
    for i, layer in enumerate(layers):
        identity = layer.type == "Split" or (layer.type == "Dropout" and layer.dropout_param.scale_train)
        if identity and len(layer.top) == 1 and _bridged(model, i, wiring.sources[i][0]):
            keep_layers(model, set(range(len(layers))) - {i})
            return True
    return False


def _bridged(model: Model, index: int, source: Place | None) -> bool:
    """Let the maker of a layer's bottom make its top; false where the bottom has other readers or versions."""
    layers = model.definition.layer
    bottom, top = layers[index].bottom[0], layers[index].top[0]
    if bottom == top:
        return True
    uses = sum([*layer.bottom, *layer.top].count(bottom) for layer in layers)
    if source is None or uses != 2 or layers[source[0]].type == "Input":
        return False
    layers[source[0]].top[source[1]] = top
    return True
