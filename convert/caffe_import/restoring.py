"""Layers that convert/onnx_export wrote down beside the nodes they became, read back as they were.

Many layers become several nodes, or a constant, from which nobody could tell the layer (Proposal, DetectionOutput,
LSTM, PriorBox, ...). The exporter therefore keeps their definition in the model's metadata (onnx_export/origins.py),
with a digest of the nodes; where a tool has changed the nodes since, they are read like any others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from caffe_bridge import schema
from caffe_bridge.errors import CaffeError
from caffe_bridge.layers.base import Shape
from caffe_bridge.net import Net


@dataclass(frozen=True)
class Layer:
    """A layer with the names of the values it reads and makes, and of its weights with their shapes."""

    param: Any
    bottoms: Sequence[str]
    tops: Sequence[str]
    blobs: Sequence[tuple[str, Shape]]

    def top_shapes(self, bottom_shapes: Sequence[Shape], blobs: Sequence[np.ndarray]) -> list[Shape]:
        """The tops' shapes. Raises CaffeError where the layer does not accept the bottoms or the weights."""
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
        built = Net(net)
        found = [tuple(parameter.shape) for parameter in built.params.get(layer.name, ())]
        if found != [blob.shape for blob in blobs]:
            raise CaffeError(f"has weights {[blob.shape for blob in blobs]}, not {found}")
        return [built.graph.shapes[top] for top in layer.top]


class Layers:
    """The layers of a model that can be restored.

    Attributes:
        input_shapes: the shapes of the net's inputs when it was exported, by name.
    """

    def __init__(self, model: onnx.ModelProto):
        self.input_shapes: dict[str, list[int]] = {}
        self._first: dict[str, Layer] = {}
        self._covered: set[str] = set()

    def at(self, proto: onnx.NodeProto) -> Layer | None:
        """The layer whose first node this is."""
        return self._first.get(proto.name)

    def covers(self, proto: onnx.NodeProto) -> bool:
        """Whether the node belongs to a restored layer."""
        return proto.name in self._covered
