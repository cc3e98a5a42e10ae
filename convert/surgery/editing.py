"""What operations on a model share: a copy to work on, its wiring, and the rules about shared parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from caffe_bridge import schema
from caffe_bridge.convert.model import Model
from caffe_bridge.convert.wiring import Wiring, wire
from caffe_bridge.definition import read_net
from caffe_bridge.errors import CaffeError
from caffe_bridge.graph import Graph, build_graph


def copy_of(model: Model) -> Model:
    """The same model with a definition and lists of its own, the blobs themselves not copied.

    Raises CaffeError for a model without a definition.
    """
    if model.definition is None:
        raise CaffeError(f"{model.path}: holds no definition; give the net's prototxt too (--model)")
    definition = schema.NetParameter()
    definition.CopyFrom(model.definition)
    return Model(model.path, {name: list(blobs) for name, blobs in model.layers.items()}, definition)


def inference_model(model: Model) -> Model:
    """A copy with the layers Caffe would build for TEST only, every layer with all of its blobs.

    Raises CaffeError for a model without a definition, and for blobs whose owner is unknown.
    """
    model = copy_of(model)
    left_out = {name: model.layers[name] for name in model.left_out()}
    model.definition = read_net(model.definition, "TEST").param
    model.layers = {name: blobs for name, blobs in model.completed().items() if blobs} | left_out
    return model


def wiring_of(model: Model) -> Wiring:
    """Who makes and reads which blob of the model's layers."""
    return wire((layer.bottom, layer.top) for layer in model.definition.layer)


def graph_of(model: Model) -> Graph:
    """The model's layers set up for TEST, without its weights. Raises LayerError where one cannot be built."""
    return build_graph(read_net(model.definition, "TEST"), "TEST")


def shared_layers(model: Model) -> set[str]:
    """Names of the layers that share a parameter with another layer."""
    users: dict[tuple[str, int], set[str]] = {}
    for name, owners in model.sharing().items():
        for owner in owners:
            users.setdefault(owner, {name}).add(name)
    return {name for names in users.values() if len(names) > 1 for name in names}


def check_not_shared(model: Model, layers: Iterable[str], what: str) -> None:
    """Raise CaffeError if one of the layers shares parameters with another, which the change would reach too."""
    for name in sorted(shared_layers(model).intersection(layers)):
        raise CaffeError(f"layer '{name}' shares parameters with another layer, so {what}")


def layer_of(model: Model, name: str) -> Any:
    """The layer of a name. Raises CaffeError where there is none."""
    for layer in model.definition.layer:
        if layer.name == name:
            return layer
    raise CaffeError(f"{model.path}: no layer is named '{name}'")


def keep_layers(model: Model, numbers: Iterable[int]) -> None:
    """Drop all other layers from the definition."""
    kept = [model.definition.layer[i] for i in sorted(numbers)]
    copies = []
    for layer in kept:
        copy = type(layer)()
        copy.CopyFrom(layer)
        copies.append(copy)
    del model.definition.layer[:]
    model.definition.layer.extend(copies)


def insert_layer(model: Model, index: int, layer: Any) -> None:
    """Put a layer before the one of a number."""
    layers = list(model.definition.layer)
    copies = []
    for other in [*layers[:index], layer, *layers[index:]]:
        copy = schema.LayerParameter()
        copy.CopyFrom(other)
        copies.append(copy)
    del model.definition.layer[:]
    model.definition.layer.extend(copies)


def values(blob: Any) -> np.ndarray:
    """A blob as a double precision array, for arithmetic."""
    if isinstance(blob, torch.Tensor):
        blob = blob.detach().cpu().double().numpy()
    return np.asarray(blob, np.float64)


def blobs_of(model: Model, layer: str, count: int) -> list[np.ndarray]:
    """A layer's blobs as double precision arrays. Raises CaffeError unless the model has that many."""
    blobs = model.layers.get(layer, [])
    if len(blobs) < count:
        raise CaffeError(f"{model.path}: layer '{layer}' has {len(blobs)} blob(s), {count} are needed")
    return [values(blob) for blob in blobs]


def free_name(model: Model, wanted: str) -> str:
    """A name that no layer and no blob has: the wanted one, or that and a number."""
    taken = {layer.name for layer in model.definition.layer}
    taken.update(blob for layer in model.definition.layer for blob in (*layer.bottom, *layer.top))
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name
