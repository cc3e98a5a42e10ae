"""Which layers the nodes of a model come from, kept in its metadata for who makes a Caffe net of it again.

A layer that becomes one node can be told from it. One that becomes several, or a constant (Proposal, DetectionOutput,
LSTM, PriorBox, ...), is written down with the names of its values, weights and nodes, and with a digest of these nodes
and their constants, which tells whether a tool has changed them since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from caffe_bridge import schema, text_format

KEY = "caffe_bridge.layers"

# Operators that stand for one layer type but are not what the type is called by anyone else.
_UNTOLD = {"MaxRoiPool"}
# Constants above this are weights, or as good as.
_HASHED = 4096


@dataclass(frozen=True)
class Origin:
    """A layer and what it became.

    Attributes:
        param: its LayerParameter.
        bottoms, tops: the values it reads and makes.
        blobs: the initializers of its weights, with the shapes they have in this layer.
        nodes: its nodes.
    """

    param: Any
    bottoms: Sequence[str]
    tops: Sequence[str]
    blobs: Sequence[tuple[str, Sequence[int]]]
    nodes: Sequence[onnx.NodeProto]

    def is_told(self) -> bool:
        """Whether the nodes alone tell the layer."""
        if len(self.nodes) == 1:
            return self.nodes[0].op_type not in _UNTOLD
        return not self.nodes and set(self.tops) <= set(self.bottoms)


def digest(nodes: Iterable[onnx.NodeProto], constants: Iterable[tuple[str, np.ndarray]]) -> str:
    """A hash of nodes and of the small ones among the constants they read."""
    state = hashlib.sha256()
    for node in nodes:
        state.update(node.SerializeToString(deterministic=True))
    for name, array in sorted(constants):
        if array.nbytes <= _HASHED:
            state.update(f"{name} {array.dtype.str} {array.shape} ".encode() + array.tobytes())
    return state.hexdigest()


def constants_of(origin: Origin, arrays: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """The constants a layer's nodes read, or that are its tops, without its weights."""
    names = {name for node in origin.nodes for name in node.input}.union(origin.tops)
    weights = {name for name, _ in origin.blobs}
    return [(name, arrays[name]) for name in names - weights if name in arrays]


def write(origins: Iterable[Origin], inputs: Mapping[str, Sequence[int]], arrays: Mapping[str, np.ndarray]) -> str:
    """What the metadata hold: the shapes of the inputs, and the layers that their nodes do not tell."""
    layers = [
        {
            "layer": text_format.format(origin.param),
            "bottoms": list(origin.bottoms),
            "tops": list(origin.tops),
            "blobs": [[name, list(shape)] for name, shape in origin.blobs],
            "nodes": [node.name for node in origin.nodes],
            "digest": digest(origin.nodes, constants_of(origin, arrays)),
        }
        for origin in origins
        if not origin.is_told()
    ]
    return json.dumps({"inputs": {name: list(shape) for name, shape in inputs.items()}, "layers": layers})


def read(model: onnx.ModelProto) -> tuple[dict[str, list[int]], list[tuple[Origin, str]]]:
    """The shapes of the inputs, and layers with the digests they had; nothing where the metadata are not as written."""
    found = next((entry.value for entry in model.metadata_props if entry.key == KEY), None)
    nodes = {node.name: node for node in model.graph.node}
    try:
        kept = json.loads(found or "{}")
        inputs = {str(name): [int(size) for size in shape] for name, shape in kept.get("inputs", {}).items()}
        layers = []
        for entry in kept.get("layers", ()):
            param = schema.LayerParameter()
            text_format.parse(entry["layer"], param)
            blobs = [(str(name), [int(size) for size in shape]) for name, shape in entry["blobs"]]
            if any(name not in nodes for name in entry["nodes"]):
                continue
            own = [nodes[name] for name in entry["nodes"]]
            origin = Origin(param, [*map(str, entry["bottoms"])], [*map(str, entry["tops"])], blobs, own)
            layers.append((origin, str(entry["digest"])))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, RuntimeError):
        return {}, []
    return inputs, layers
