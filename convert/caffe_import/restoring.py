"""Layers that convert/onnx_export wrote down beside the nodes they became, read back as they were.

Many layers become several nodes, or a constant, from which nobody could tell the layer (Proposal, DetectionOutput,
LSTM, PriorBox, ...). The exporter therefore keeps their definition in the model's metadata (onnx_export/origins.py),
with a digest of the nodes; where a tool has changed the nodes since, they are read like any others.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from caffe_bridge import schema
from caffe_bridge.convert.caffe_import.dialects import Dialect
from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.convert.onnx_export import exported_types, origins
from caffe_bridge.errors import CaffeError
from caffe_bridge.layers.base import Shape
from caffe_bridge.net import Net


@dataclass(frozen=True)
class Layer:
    """A layer with the names of the values it reads and makes, and of its weights with their shapes."""

    param: Any
    bottoms: Sequence[str]
    tops: Sequence[str]
    blobs: Sequence[tuple[str, Sequence[int]]]

    def top_shapes(self, bottom_shapes: Sequence[Shape], blobs: Sequence[np.ndarray]) -> list[Shape]:
        """The tops' shapes. Raises Unsupported where the layer does not accept the bottoms or the weights."""
        net = schema.NetParameter()
        for i, shape in enumerate(bottom_shapes):
            entry = net.layer.add(name=f"bottom{i}", type="Input", top=[f"bottom{i}"])
            entry.input_param.shape.add(dim=shape)
        layer = net.layer.add()
        layer.CopyFrom(self.param)
        del layer.bottom[:]
        del layer.top[:]
        layer.bottom.extend(f"bottom{i}" for i in range(len(bottom_shapes)))
        layer.top.extend(f"top{i}" for i in range(len(self.tops)))
        try:
            built = Net(net)
        except CaffeError as error:
            raise Unsupported(str(error)) from error
        found = [tuple(parameter.shape) for parameter in built.params.get(layer.name, ())]
        if found != [blob.shape for blob in blobs]:
            raise Unsupported(f"has weights {[blob.shape for blob in blobs]}, not {found}")
        return [built.graph.shapes[top] for top in layer.top]


class Layers:
    """The layers of a model that can be restored: those whose nodes are as they were written, in types of the dialect.

    Attributes:
        input_shapes: the shapes of the net's inputs when it was exported, by name.
    """

    def __init__(self, model: onnx.ModelProto, arrays: Mapping[str, np.ndarray], dialect: Dialect):
        self.input_shapes, found = origins.read(model)
        self._first: dict[str, list[Layer]] = {}
        self._covered: set[str] = set()
        readers: dict[str, str] = {}
        for node in reversed(model.graph.node):
            readers.update(dict.fromkeys(node.input, node.name))
        known = exported_types()
        for origin, digest in found:
            if not _may_be_restored(origin.param, dialect, known):
                continue
            if origins.digest(origin.nodes, origins.constants_of(origin, arrays)) != digest:
                continue
            place = origin.nodes[0].name if origin.nodes else readers.get(origin.tops[0] if origin.tops else "")
            if place is not None:
                layer = Layer(origin.param, origin.bottoms, origin.tops, origin.blobs)
                self._first.setdefault(place, []).append(layer)
                self._covered.update(node.name for node in origin.nodes)

    def at(self, proto: onnx.NodeProto) -> list[Layer]:
        """The layers that come before a node, or whose first node it is."""
        return self._first.get(proto.name, [])

    def covers(self, proto: onnx.NodeProto) -> bool:
        """Whether the node belongs to a restored layer."""
        return proto.name in self._covered


def _may_be_restored(param: Any, dialect: Dialect, known: Container[str]) -> bool:
    """Only what is exported comes back: no layer that reads files, whatever the metadata say."""
    type_ = param.type
    if type_ == "Python":
        type_ = f"{param.python_param.module}.{param.python_param.layer}"
    floor = param.pooling_param.round_mode == schema.PoolingParameter.FLOOR
    return type_ in known and dialect.has(param.type) and (dialect.floor or not floor)
