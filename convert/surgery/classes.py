"""Another number of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from caffe_bridge import fillers
from caffe_bridge.class_count import with_classes
from caffe_bridge.convert.model import Model
from caffe_bridge.convert.surgery.editing import check_not_shared, copy_of, values, wiring_of
from caffe_bridge.convert.surgery.linear import CONVOLUTIONS
from caffe_bridge.convert.wiring import Place, Wiring
from caffe_bridge.definition import NetDefinition
from caffe_bridge.errors import CaffeError

_SOFTMAX = ("Softmax", "SoftmaxWithLoss")
_THROUGH = ("Concat", "Crop", "Dropout", "Eltwise", "Flatten", "Interp", "Permute", "Pooling", "ReLU", "Split")
_COUNTED = ("detection_output_param", "multibox_loss_param", "detection_evaluate_param")


def change_classes(model: Model, classes: int) -> tuple[Model, list[str]]:
    """The model for another number of classes, the background included, and the layers that have to learn anew.

    Classes are counted where a softmax reads its scores, or at the output of a net without one. Followed from there
    are InnerProduct layers with the box regressors beside them (see `caffe_bridge.class_count`), or else Convolutions
    and Deconvolutions, through the layers between (as in SqueezeNet, FCN and SSD), and the counts that detection
    layers hold. The weights of the layers whose size changes are drawn anew by their fillers, which are zeros where
    there is none; a Deconvolution that enlarges each class by itself, all alike, goes on to do so.

    Raises CaffeError where the number of classes cannot be told, naming the layer in the way.
    """
    if classes < 2:
        raise CaffeError(f"{classes} classes: a net needs at least 2")
    model = copy_of(model)
    before = {layer.name: _outputs(layer) for layer in model.definition.layer}
    if _scored_by_inner_product(model):
        model.definition = with_classes(NetDefinition(model.definition), classes).param
    else:
        _change_convolutions(model, classes)
    changed = [layer for layer in model.definition.layer if _outputs(layer) != before[layer.name]]
    names = list(dict.fromkeys(layer.name for layer in changed))
    check_not_shared(model, names, "its number of outputs cannot be changed")
    for layer in changed:
        if layer.name in model.layers:
            model.layers[layer.name] = _drawn(layer, model.layers[layer.name], before[layer.name])
    return model, names


def _outputs(layer: Any) -> int:
    return layer.inner_product_param.num_output or layer.convolution_param.num_output


def _scored_by_inner_product(model: Model) -> bool:
    layers = model.definition.layer
    read = {layer.bottom[0] for layer in layers if layer.type in _SOFTMAX and layer.bottom}
    return any(layer.type == "InnerProduct" and read.intersection(layer.top) for layer in layers)


def _change_convolutions(model: Model, classes: int) -> None:
    wiring, layers = wiring_of(model), model.definition.layer
    found: dict[int, None] = {}
    reshapes: set[int] = set()
    old: set[int] = set()
    for place in _scores(model, wiring):
        scorers, between = _scorers(model, wiring, place)
        dims = [layers[j].reshape_param.shape.dim[-1] for j in between]
        positive = {dim for dim in dims if dim > 0}
        if dims and not positive:
            continue  # a region proposal network: two classes, whatever there is to see
        old |= positive or {_outputs(layers[j]) for j in scorers}
        found.update(dict.fromkeys(scorers))
        reshapes |= set(between)
    if len(old) != 1:
        counts = " and ".join(map(str, sorted(old)))
        problem = f"scores {counts} classes" if old else "has no layer that scores classes for a softmax"
        raise CaffeError(f"{model.path}: {problem}; set num_output in the prototxt")
    (count,) = old
    for j in found:
        param = layers[j].convolution_param
        if param.num_output % count:
            raise CaffeError(f"layer '{layers[j].name}' has {param.num_output} outputs, no multiple of {count} classes")
        if param.group == param.num_output:
            param.group = classes
        param.num_output = param.num_output // count * classes
    for j in reshapes:
        layers[j].reshape_param.shape.dim[-1] = classes
    for layer in layers:
        for field in _COUNTED:
            if layer.HasField(field) and getattr(layer, field).num_classes == count:
                getattr(layer, field).num_classes = classes


def _scores(model: Model, wiring: Wiring) -> list[Place]:
    """The scores that softmaxes read; the one output of a net without any."""
    layers = model.definition.layer
    read = [wiring.sources[i][0] for i, layer in enumerate(layers) if layer.type in _SOFTMAX and layer.bottom]
    places = [place for place in read if place is not None] or wiring.unread()
    return places if read else places[: len(places) == 1]


def _scorers(model: Model, wiring: Wiring, scores: Place) -> tuple[list[int], list[int]]:
    """The convolutions whose channels are the classes of some scores, and the Reshape layers between."""
    layers = model.definition.layer
    scorers: dict[int, None] = {}
    reshapes: list[int] = []
    waiting: list[Place | None] = [scores]
    while waiting:
        place = waiting.pop()
        if place is None or place[0] in scorers:
            continue
        i, layer = place[0], layers[place[0]]
        if layer.type in CONVOLUTIONS:
            scorers[i] = None
        elif layer.type == "Deconvolution":
            scorers[i] = None
            waiting += wiring.sources[i]
        elif layer.type == "Reshape" and len(layer.reshape_param.shape.dim):
            reshapes.append(i)
            waiting += wiring.sources[i]
        elif layer.type in _THROUGH:
            waiting += wiring.sources[i][:1] if layer.type == "Crop" else wiring.sources[i]
        else:
            blob = layers[scores[0]].top[scores[1]]
            raise CaffeError(
                f"{model.path}: '{blob}' does not score classes, or not so that it can be told: before it is "
                f"'{layer.name}' ({layer.type}), which cannot be followed; set num_output in the prototxt"
            )
    return list(scorers), reshapes


def _drawn(layer: Any, blobs: list[Any], old: int) -> list[np.ndarray]:
    """New blobs for a layer whose number of outputs has changed from `old`."""
    param = layer.inner_product_param if layer.type == "InnerProduct" else layer.convolution_param
    made = []
    for blob, name in zip(blobs, ("weight_filler", "bias_filler")):
        shape = list(blob.shape)
        if layer.type == "Deconvolution" and len(shape) > 1:
            kernel = _interpolation(values(blob), old)
            if kernel is not None:
                made.append(_interpolating(kernel, param))
                continue
            shape[:2] = [round(shape[0] * param.num_output / old), param.num_output // param.group]
        else:
            shape[1 if len(shape) > 1 and layer.type == "InnerProduct" and param.transpose else 0] = param.num_output
        tensor = torch.zeros(shape)
        fillers.fill(tensor, getattr(param, name) if param.HasField(name) else None)
        made.append(tensor.numpy())
    return made


def _interpolation(weight: np.ndarray, channels: int) -> np.ndarray | None:
    """The one kernel with which a Deconvolution enlarges each channel by itself, if that is what it does."""
    if weight.shape[0] != channels:
        return None
    kernel = weight[0, 0]
    if weight.shape[1] == 1:
        return kernel if (weight == kernel).all() else None
    alone = np.zeros_like(weight)
    alone[range(channels), range(channels)] = kernel
    return kernel if weight.shape[1] == channels and (weight == alone).all() else None


def _interpolating(kernel: np.ndarray, param: Any) -> np.ndarray:
    weight = np.zeros((param.num_output, param.num_output // param.group, *kernel.shape), np.float32)
    columns = range(param.num_output) if param.group == 1 else [0] * param.num_output
    weight[range(param.num_output), columns] = kernel
    return weight
