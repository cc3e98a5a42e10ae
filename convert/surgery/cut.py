"""A part of a net: from given blobs on, up to given blobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from caffe_bridge import schema
from caffe_bridge.convert.model import Model
from caffe_bridge.convert.surgery.editing import (
    free_name,
    graph_of,
    inference_model,
    insert_layer,
    keep_layers,
    wiring_of,
)
from caffe_bridge.convert.wiring import Place, Wiring
from caffe_bridge.errors import CaffeError


def cut(model: Model, outputs: Iterable[str] = (), inputs: Iterable[str] = ()) -> Model:
    """The layers that compute `outputs` (as the net is in TEST), beginning at the blobs `inputs` instead of its own.

    Without outputs, all that depends on the net's outputs stays; without inputs, it begins where it did. A blob that
    layers change in place stands for its last value. An output that other outputs are computed from is also what they
    read, so that Caffe would not list it: a copy called NAME_output is added.

    Raises CaffeError for a blob that does not exist, one that does not depend on the inputs alone, and an input whose
    values before a change in place are needed.
    """
    model = inference_model(model)
    wiring = wiring_of(model)
    outputs, inputs = list(outputs), list(inputs)
    for blob in (*outputs, *inputs):
        if blob not in wiring.last:
            raise CaffeError(f"{model.path}: cannot cut at '{blob}': no layer makes such a blob")
    ends = [wiring.last[blob] for blob in outputs] or wiring.unread()
    begins = {wiring.last[blob]: blob for blob in inputs}
    kept = _needed(wiring, ends, begins)
    shapes = graph_of(model).shapes if inputs else {}
    _check(model, wiring, kept, inputs)
    copies = [blob for blob in outputs if any(reader in kept for reader in wiring.readers[wiring.last[blob]])]
    keep_layers(model, kept)
    for blob in copies:
        name = free_name(model, f"{blob}_output")
        insert_layer(model, len(model.definition.layer), schema.LayerParameter(name=name, type="Split"))
        model.definition.layer[-1].bottom.append(blob)
        model.definition.layer[-1].top.append(name)
    for number, blob in enumerate(inputs):
        layer = schema.LayerParameter(name=free_name(model, f"{blob}_input"), type="Input", top=[blob])
        layer.input_param.shape.add(dim=shapes[blob])
        insert_layer(model, number, layer)
    names = {layer.name for layer in model.definition.layer}
    model.layers = {name: blobs for name, blobs in model.layers.items() if name in names}
    return model


def _needed(wiring: Wiring, ends: Sequence[Place], begins: dict[Place, str]) -> set[int]:
    """The layers that the values at `ends` are computed by, those at `begins` being given."""
    needed: set[int] = set()
    waiting = [place for place in ends if place not in begins]
    while waiting:
        layer, _ = waiting.pop()
        if layer in needed:
            continue
        needed.add(layer)
        waiting += [source for source in wiring.sources[layer] if source is not None and source not in begins]
    return needed


def _check(model: Model, wiring: Wiring, kept: set[int], inputs: Sequence[str]) -> None:
    layers = model.definition.layer
    for i in sorted(kept):
        for blob in set(inputs).intersection(layers[i].top):
            raise CaffeError(
                f"{model.path}: '{blob}' cannot be an input: layer '{layers[i].name}', which makes it, is needed for "
                "the outputs as well; cut at another blob, or at more of them"
            )
        if inputs and layers[i].type == "Input" and not any(blob in inputs for blob in layers[i].top):
            readers = [layers[r].name for j in range(len(layers[i].top)) for r in wiring.readers[i, j] if r in kept]
            raise CaffeError(
                f"{model.path}: the outputs depend on input '{layers[i].top[0]}' too (layer '{readers[0]}' reads it); "
                "name it as an input, or cut at another blob"
            )
