"""Layers that come back from their definitions, which exporters keep beside what the layers became."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from caffe_bridge import schema
from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.convert.onnx_export.registry import shape_rule, type_of
from caffe_bridge.definition import read_net
from caffe_bridge.errors import CaffeError
from caffe_bridge.graph import build_graph
from caffe_bridge.layers.base import Shape

_ROWS = 3
"""How many rows are taken where data decide on it: more than one, which reshapes could drop."""


def may_be_restored(param: Any, known: Container[str]) -> bool:
    """Whether the layer's type is among those that are exported: no layer that reads files comes back."""
    if param.type == "Python":
        return f"{param.python_param.module}.{param.python_param.layer}" in known
    return param.type in known


def shapes_of_layer(param: Any, tops: int, bottoms: Sequence[Shape]) -> tuple[list[Shape], list[Shape]]:
    """The shapes of a layer's tops and of its weights. Raises Unsupported where it does not accept the bottoms'."""
    net = schema.NetParameter()
    for i, shape in enumerate(bottoms):
        entry = net.layer.add(name=f"bottom{i}", type="Input", top=[f"bottom{i}"])
        entry.input_param.shape.add(dim=shape)
    layer = net.layer.add()
    layer.CopyFrom(param)
    del layer.bottom[:]
    del layer.top[:]
    layer.bottom.extend(f"bottom{i}" for i in range(len(bottoms)))
    layer.top.extend(f"top{i}" for i in range(tops))
    try:
        graph = build_graph(read_net(net, "TEST"), "TEST")
    except CaffeError as error:
        raise Unsupported(str(error)) from error
    node = graph.nodes[-1]
    weights = [tuple(parameter.shape) for parameter in node.layer.blobs]
    rule = shape_rule(type_of(node))
    if rule is not None:
        return rule(node.layer, list(bottoms), _ROWS), weights
    return [graph.shapes[top] for top in layer.top], weights
