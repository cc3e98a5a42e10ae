"""Other names for layers and blobs."""

from __future__ import annotations

from collections.abc import Mapping

from caffe_bridge.convert.model import Model
from caffe_bridge.convert.surgery.editing import copy_of
from caffe_bridge.errors import CaffeError


def rename(model: Model, names: Mapping[str, str]) -> Model:
    """The model with other names for layers, for blobs, and for the two alike where they have the same name.

    Names may be exchanged (`{"a": "b", "b": "a"}`). Parameters that are shared by name stay so.

    Raises CaffeError for a name that neither a layer nor a blob has, and for one that would then stand twice.
    """
    model = copy_of(model)
    layers = list(dict.fromkeys(layer.name for layer in model.definition.layer))
    blobs = list(dict.fromkeys(blob for layer in model.definition.layer for blob in (*layer.bottom, *layer.top)))
    for name in names:
        if name not in layers and name not in blobs:
            raise CaffeError(f"{model.path}: cannot rename '{name}': no layer and no blob is named so")
    for kind, present in (("layer", layers), ("blob", blobs)):
        made: dict[str, str] = {}
        for old in present:
            new = names.get(old, old)
            if new in made:
                raise CaffeError(f"{model.path}: {kind}s '{made[new]}' and '{old}' would both be named '{new}'")
            made[new] = old
    for layer in model.definition.layer:
        layer.name = names.get(layer.name, layer.name)
        for field in (layer.bottom, layer.top):
            field[:] = [names.get(blob, blob) for blob in field]
    model.layers = {names.get(name, name): own for name, own in model.layers.items()}
    return model
