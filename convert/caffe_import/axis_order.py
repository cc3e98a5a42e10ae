"""Nets that compute with channels last for a while, in the order that Caffe has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_bridge.convert.caffe_import.graph import Graph, Node, Value

_ONE_BY_ONE = frozenset(
    "relu elu leaky_relu sigmoid tanh softplus exp log abs mish hard_swish swish clip power threshold sign erf "
    "gelu".split()
)

_MOST = 100
"""Nodes between two transposes beyond which they are left as they are."""


def keep_order(graph: Graph) -> None:
    """Drop a transpose and those that take it back where all between them can be done in the first order.

    Fully connected layers over the channels become convolutions, normalisation over the last axis one over channels.
    """
    for first in graph.walk("transpose"):
        order = list(first["order"])
        between, last = _until_taken_back(graph, first, order)
        if not between or not last:
            continue
        for node in between:
            _reorder(graph, node, order)
        graph.replace(first.output, first.inputs[0])
        for node in last:
            graph.replace(node.output, node.inputs[0])


def _until_taken_back(graph: Graph, first: Node, order: Sequence[int]) -> tuple[list[Node], list[Node]]:
    """The nodes that compute in an order, and the transposes that end it; none if something else reads what they do."""
    between: list[Node] = []
    last: list[Node] = []
    waiting, reordered = [first.output], {id(first.output)}
    while waiting:
        for node in dict.fromkeys(waiting.pop().users):
            if node.operator == "transpose" and [order[i] for i in node["order"]] == sorted(order):
                last.append(node)
            elif not _can_follow(node, order) or len(between) > _MOST:
                return [], []
            elif node not in between:
                between.append(node)
                waiting.append(node.output)
                reordered.add(id(node.output))
    read = [value for node in between for value in node.inputs if value.array is None]
    return (between, last) if all(id(value) in reordered for value in read) else ([], [])


def _can_follow(node: Node, order: Sequence[int]) -> bool:
    ndim, channels_last = len(order), len(order) == 4 and order[-1] == 1
    if node.operator == "dense":
        return channels_last and node["axis"] == ndim - 1
    if node.operator == "standardize":
        return channels_last and tuple(node["axes"]) == (ndim - 1,)
    if node.operator in ("add", "sub", "mul", "div", "max", "min"):
        return all(len(value.shape) == ndim for value in node.inputs)
    return node.operator in (*_ONE_BY_ONE, "affine", "softmax") and len(node.output.shape) == ndim


def _reorder(graph: Graph, node: Node, order: Sequence[int]) -> None:
    """Make a node compute the same for an input whose axis order[i] is what was axis i."""
    attributes, inputs = dict(node.attributes), node.inputs
    places = [list(order).index(axis) for axis in range(len(order))]
    node.output.shape = tuple(node.output.shape[place] for place in places)
    if node.operator == "affine":
        for key in ("scale", "shift"):
            array = attributes[key]
            if array is not None and array.ndim:
                full = array.reshape((1,) * (len(order) - array.ndim) + array.shape)
                attributes[key] = np.ascontiguousarray(full.transpose(places))
    elif node.operator == "softmax":
        attributes["axis"] = order[attributes["axis"]]
    elif node.operator == "standardize":
        attributes["axes"] = (1,)
    elif node.operator == "dense":
        weight = np.asarray(node.inputs[1].array)[:, :, None, None]
        one = {"stride": (1, 1), "begin": (0, 0), "end": (0, 0), "dilation": (1, 1), "group": 1}
        graph.rewrite(node, "conv", [inputs[0], Value(inputs[1].name, weight.shape, weight), *inputs[2:]], **one)
        return
    node.attributes = attributes
