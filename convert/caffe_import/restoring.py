"""Layers that convert/onnx_export wrote down beside the nodes they became, read back as they were.

Many layers become several nodes, or a constant, from which nobody could tell the layer (Proposal, DetectionOutput,
LSTM, PriorBox, ...). The exporter therefore keeps their definition in the model's metadata (onnx_export/origins.py),
with a digest of the nodes; where a tool has changed the nodes since, they are read like any others.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from caffe_bridge.convert.caffe_import.dialects import Dialect
from caffe_bridge.convert.caffe_import.whole_layers import may_be_restored
from caffe_bridge.convert.onnx_export import exported_types, origins


class Layers:
    """The layers of a model that can be restored: those whose nodes are as they were written, in types of the dialect.

    Attributes:
        input_shapes: the shapes of the net's inputs when it was exported, by name.
    """

    def __init__(self, model: onnx.ModelProto, arrays: Mapping[str, np.ndarray], dialect: Dialect):
        self.input_shapes, found = origins.read(model)
        self._first: dict[str, list[origins.Origin]] = {}
        self._covered: set[str] = set()
        readers: dict[str, str] = {}
        for node in reversed(model.graph.node):
            readers.update(dict.fromkeys(node.input, node.name))
        known = exported_types()
        for origin, digest in found:
            if not may_be_restored(origin.param, known) or not dialect.expresses(origin.param):
                continue
            if origins.digest(origin.nodes, origins.constants_of(origin, arrays)) != digest:
                continue
            place = origin.nodes[0].name if origin.nodes else readers.get(origin.tops[0] if origin.tops else "")
            if place is not None:
                self._first.setdefault(place, []).append(origin)
                self._covered.update(node.name for node in origin.nodes)

    def at(self, proto: onnx.NodeProto) -> list[origins.Origin]:
        """The layers that come before a node, or whose first node it is."""
        return self._first.get(proto.name, [])

    def covers(self, proto: onnx.NodeProto) -> bool:
        """Whether the node belongs to a restored layer."""
        return proto.name in self._covered
