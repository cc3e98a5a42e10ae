"""A Caffe net in the making: layers, their blobs' names and their weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from caffe_bridge import schema
from caffe_bridge.convert.caffe_import.dialects import Dialect
from caffe_bridge.convert.caffe_import.graph import Graph, Node, Value
from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.convert.model import Model

_IN_PLACE = set("BatchNorm Bias Clip ELU HardSwish PReLU Power ReLU ReLU6 Scale Sigmoid TanH".split())
_FILTERS = {"Convolution", "Deconvolution", "InnerProduct"}
# Caffe lets the tops of these share memory with what others may read.
_SHARING = {"Flatten", "Input", "Parameter", "Reshape", "Split"}


class NetWriter:
    """Collects layers; every layer makes new blobs until `finish` lets those work in place that can.

    Args:
        graph: the graph that is written.
        dialect: what may be used.
    """

    def __init__(self, graph: Graph, dialect: Dialect):
        self.graph, self.dialect = graph, dialect
        self.net = schema.NetParameter(name=graph.name)
        self.blobs: dict[int, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._weights: dict[str, list[Any]] = {}
        self._names: dict[str, str] = {}
        self._reshaped: dict[str, str] = {}
        self._made_by: dict[str, Any] = {}
        self._node: Node | None = None

    # -- names -------------------------------------------------------------------------------------------

    def _unique(self, wanted: str, type_: str) -> str:
        """A name no other layer has: the wanted one, that and the type, or that and a number."""
        if self._names.get(wanted, type_) != type_:
            wanted = f"{wanted}/{type_.lower()}"
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted}_{number}"
        self._names[name] = type_
        return name

    def begin(self, node: Node) -> None:
        """What is added from now on is named after this node."""
        self._node = node

    def blob(self, value: Value) -> str:
        """The blob of a value; a constant gets a layer that holds it."""
        if id(value) not in self.blobs:
            if value.array is None:
                # Made by a node that could not be read, which is among the problems.
                self.stand_in(value)
            else:
                self.blobs[id(value)] = self.parameter(value.array)
        return self.blobs[id(value)]

    def stand_in(self, value: Value) -> None:
        """Name a value that could not be made, so that what reads it is looked at too."""
        name = self._unique("?", "")
        self.blobs[id(value)], self.shapes[name] = name, value.shape

    def shape(self, blob: str) -> tuple[int, ...]:
        """The shape of a blob."""
        return self.shapes[blob]

    def before_reshape(self, blob: str) -> str:
        """The blob that a Reshape or Flatten was made of, itself for others."""
        return self._reshaped.get(blob, blob)

    def is_power(self, blob: str) -> bool:
        """Whether a blob is made by a Power that raises to a power."""
        layer = self._made_by.get(blob)
        return layer is not None and layer.type == "Power" and layer.power_param.power != 1

    def is_eltwise(self, blob: str) -> bool:
        """Whether a blob is made by an Eltwise."""
        return blob in self._made_by and self._made_by[blob].type == "Eltwise"

    def filter_before(self, blob: str) -> Any:
        """The convolution or InnerProduct that makes a blob, with scales after it or not; None for others."""
        layer = self._made_by.get(blob)
        while layer is not None and layer.type in ("BatchNorm", "Scale"):
            layer = self._made_by.get(layer.bottom[0])
        return layer if layer is not None and layer.type in _FILTERS else None

    # -- layers ------------------------------------------------------------------------------------------

    def add_input(self, value: Value) -> None:
        """An Input layer."""
        name = self._unique(value.name, "Input")
        layer = self.net.layer.add(name=name, type="Input", top=[name])
        layer.input_param.shape.add(dim=value.shape)
        self.blobs[id(value)] = name
        self.shapes[name] = value.shape

    def add(
        self,
        type_: str,
        bottoms: Sequence[str],
        shape: Sequence[int],
        suffix: str = "",
        blobs: Sequence[np.ndarray] = (),
        **parameters: Any,
    ) -> str:
        """Add a layer with one top of this shape; returns the top's name.

        Args:
            suffix: what the layer's name ends with where one node becomes several layers.
            blobs: its weights.
            parameters: fields of its LayerParameter, as dicts.
        """
        return self.add_many(type_, bottoms, [shape], suffix, blobs, **parameters)[0]

    def add_many(
        self,
        type_: str,
        bottoms: Sequence[str],
        shapes: Sequence[Sequence[int]],
        suffix: str = "",
        blobs: Sequence[np.ndarray] = (),
        **parameters: Any,
    ) -> list[str]:
        """The same for any number of tops. Raises Unsupported if the dialect has no such layer."""
        if not self.dialect.has(type_):
            raise Unsupported(f"needs the layer {type_}, which {self.dialect.name} lacks", "choose another --dialect")
        param = schema.LayerParameter(type=type_, bottom=bottoms, **parameters)
        return self.add_layer(param, shapes, suffix, blobs)

    def add_layer(
        self, param: Any, shapes: Sequence[Sequence[int]], suffix: str = "", blobs: Sequence[np.ndarray] = ()
    ) -> list[str]:
        """Add a layer as it is, but for its name and tops."""
        assert self._node is not None
        wanted = f"{self._node.name}/{suffix}" if suffix else self._node.name
        name = self._unique(wanted, param.type)
        layer = self.net.layer.add()
        layer.CopyFrom(param)
        layer.name = name
        tops = [name] if len(shapes) == 1 else [f"{name}_{i}" for i in range(len(shapes))]
        del layer.top[:]
        layer.top.extend(tops)
        if blobs:
            self._weights[name] = [np.ascontiguousarray(blob, np.float32).reshape(blob.shape) for blob in blobs]
        for top, shape in zip(tops, shapes):
            self._made_by[top] = layer
            self.shapes[top] = tuple(int(size) for size in shape)
        if param.type in ("Flatten", "Reshape"):
            self._reshaped[tops[0]] = self.before_reshape(param.bottom[0])
        return tops

    def parameter(self, array: np.ndarray) -> str:
        """A layer that holds a constant."""
        if not array.size:
            raise Unsupported("needs an empty constant")
        return self.add(
            "Parameter", [], array.shape, "constant", [array], parameter_param={"shape": {"dim": array.shape}}
        )

    def silence(self, blobs: Sequence[str]) -> None:
        """Read blobs that nobody wants, so that they are no outputs."""
        self.add_many("Silence", blobs, [], "unused")

    # -- the end -----------------------------------------------------------------------------------------

    def finish(self) -> Model:
        """The net and its weights; outputs get their names, and layers that can work in place."""
        outputs = self._named_outputs()
        self._silence_inputs()
        self._drop_reshapes(outputs)
        self._work_in_place(outputs)
        self._share_weights()
        _rename(self.net, {blob: name for blob, name in outputs.items() if name})
        return Model(self.graph.name, self._weights, self.net)

    def _named_outputs(self) -> dict[str, str]:
        """Blob to the name of the output that it is; several outputs of one blob get a Split."""
        inputs = {self.blobs[id(value)] for value in self.graph.inputs}
        results: dict[str, list[str]] = {}
        for name, value in zip(self.graph.output_names, self.graph.results.inputs):
            self._node = Node("results", [], [], {}, name or "output", "")
            results.setdefault(self.blob(value), []).append("" if name in inputs else name)
        read = {bottom for layer in self.net.layer for bottom in layer.bottom}
        found = {}
        for blob, names in results.items():
            if len(names) == 1 and blob not in inputs and blob not in read:
                found[blob] = names[0]
                continue
            self._node = Node("results", [], [], {}, names[0] or "output", "")
            tops = self.add_many("Split", [blob], [self.shapes[blob]] * len(names))
            found.update(zip(tops, names))
        return found

    def _silence_inputs(self) -> None:
        """Inputs that nobody reads would be outputs."""
        read = {bottom for layer in self.net.layer for bottom in layer.bottom}
        unread = [blob for blob in (self.blobs[id(value)] for value in self.graph.inputs) if blob not in read]
        if unread:
            self._node = Node("results", [], [], {}, "inputs", "")
            self.silence(unread)

    def _drop_reshapes(self, outputs: dict[str, str]) -> None:
        """Drop reshapes that only other reshapes were to read, each of which now reads what came before."""
        read = {bottom for layer in self.net.layer for bottom in layer.bottom}.union(outputs)
        unread = self._reshaped.keys() - read
        kept = [layer for layer in self.net.layer if unread.isdisjoint(layer.top)]
        del self.net.layer[:]
        self.net.layer.extend(kept)

    def _work_in_place(self, outputs: dict[str, str]) -> None:
        readers = Counter(bottom for layer in self.net.layer for bottom in layer.bottom)
        final: dict[str, str] = {}
        for layer in self.net.layer:
            bottoms = [final.get(bottom, bottom) for bottom in layer.bottom]
            if layer.type in _IN_PLACE and len(bottoms) == 1:
                first, top = layer.bottom[0], layer.top[0]
                alone = readers[first] == 1 and first not in outputs and self._type_of(first) not in _SHARING
                # OpenCV confuses a layer with a blob of its name that another one has made before.
                if alone and outputs.get(top, bottoms[0]) == bottoms[0]:
                    final[top] = bottoms[0]
                    if top in outputs:
                        outputs[bottoms[0]] = outputs.pop(top)
            del layer.bottom[:]
            layer.bottom.extend(bottoms)
            for i, top in enumerate(layer.top):
                layer.top[i] = final.get(top, top)

    def _share_weights(self) -> None:
        """Let layers with the same weights have them in common, as layers that run twice do."""
        owners: dict[Any, list[Any]] = {}
        for layer in self.net.layer:
            blobs = self._weights.get(layer.name)
            if layer.type not in _FILTERS or not blobs or (blobs[0] == blobs[0].flat[0]).all():
                continue
            alike = owners.setdefault((layer.type, *(blob.shape for blob in blobs)), [])
            for owner in alike:
                if all(np.array_equal(a, b) for a, b in zip(blobs, self._weights[owner.name])):
                    self._weights[layer.name] = self._weights[owner.name]
                    for shared in (owner, layer):
                        del shared.param[:]
                        for i in range(len(blobs)):
                            shared.param.add(name=f"{owner.name}/{i}")
                    break
            else:
                alike.append(layer)

    def _type_of(self, blob: str) -> str:
        return self._made_by[blob].type if blob in self._made_by else "Input"


def _rename(net: Any, outputs: dict[str, str]) -> None:
    """Give the outputs their names; another blob that has one of them makes way."""
    names = {top for layer in net.layer for top in layer.top}
    new = dict(outputs)
    for name in names.intersection(outputs.values()).difference(outputs):
        number = 1
        while f"{name}_{number}" in names:
            number += 1
        new[name] = f"{name}_{number}"
    for layer in net.layer:
        for row in (layer.bottom, layer.top):
            for i, name in enumerate(row):
                row[i] = new.get(name, name)
