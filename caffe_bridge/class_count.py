"""The number of classes of a detection net as one setting."""

from __future__ import annotations

import re
from typing import Any

from caffe_bridge.definition import NetDefinition
from caffe_bridge.errors import CaffeError

_SOFTMAX = ("Softmax", "SoftmaxWithLoss")
_NUM_CLASSES = re.compile(r"(['\"]?num_classes['\"]?\s*:\s*)(\d+)")


def class_count(definition: NetDefinition) -> int:
    """How many classes a net tells apart, the background included.

    That is the outputs of the InnerProduct layers whose scores a softmax reads or, of a net without them (an RPN's
    training net), the `num_classes` of its Python layers. Raises CaffeError when the net has neither, or when they
    disagree.
    """
    counts = sorted({layer.inner_product_param.num_output for layer in _scorers(definition.param)})
    name = definition.path or definition.param.name or "this net"
    if not counts:
        named = [_NUM_CLASSES.search(layer.python_param.param_str) for layer in definition.param.layer]
        counts = sorted({int(match[2]) for match in named if match})
    if not counts:
        raise CaffeError(
            f"{name} has no InnerProduct layer that a Softmax reads and no layer with num_classes, "
            "so no number of classes to set"
        )
    if len(counts) > 1:
        raise CaffeError(f"{name} scores {' and '.join(map(str, counts))} classes; set the layers in the prototxt")
    return counts[0]


def with_classes(definition: NetDefinition, classes: int) -> NetDefinition:
    """The net with its class-dependent layers made for another number of classes, the background included.

    These are the InnerProduct layers that a softmax reads, the box regressors beside them (layers of the same bottom
    with four outputs per class), and `num_classes` in the parameters of Python layers.

    Raises:
        CaffeError: fewer than two classes, or a net whose number of classes cannot be told; see `class_count`.
    """
    if classes < 2:
        raise CaffeError(f"{classes} classes: a net needs at least 2, the background and one more")
    old = class_count(definition)
    param = type(definition.param)()
    param.CopyFrom(definition.param)
    inputs = {tuple(layer.bottom) for layer in _scorers(param)}
    scorers = {layer.name for layer in _scorers(param)}
    for layer in param.layer:
        if layer.name in scorers:
            layer.inner_product_param.num_output = classes
        elif layer.type == "InnerProduct" and tuple(layer.bottom) in inputs:
            if layer.inner_product_param.num_output == 4 * old:
                layer.inner_product_param.num_output = 4 * classes
        elif layer.python_param.param_str:
            text = layer.python_param.param_str
            layer.python_param.param_str = _NUM_CLASSES.sub(rf"\g<1>{classes}", text)
    return NetDefinition(param, definition.path, list(definition.lines))


def _scorers(param: Any) -> list[Any]:
    """The InnerProduct layers whose top a softmax reads."""
    read = {layer.bottom[0] for layer in param.layer if layer.type in _SOFTMAX and layer.bottom}
    return [layer for layer in param.layer if layer.type == "InnerProduct" and read.intersection(layer.top)]
