"""What an ONNX graph and an exported torch program are both read into: operators with fixed shapes.

The operators (operators.py) are those that Caffe's layers are made from; everything that follows from constants and
shapes alone is already computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffe_bridge.convert.caffe_import.problems import Problems, Unsupported
from caffe_bridge.layers.base import MAX_COUNT, Shape


class Value:
    """An input, a constant or what a node makes.

    Attributes:
        name: its name in the source, from which blobs may be named.
        shape: its shape.
        array: its values where it is a constant, else None.
        node: the node that makes it, None for inputs and constants.
        users: the nodes that read it, once for each time they do.
    """

    __slots__ = ("array", "name", "node", "shape", "users")

    def __init__(self, name: str, shape: Sequence[int], array: np.ndarray | None = None, node: Node | None = None):
        self.name = name
        self.shape: Shape = tuple(int(d) for d in shape)
        self.array = array
        self.node = node
        self.users: list[Node] = []

    def made_by(self, *operators: str) -> Node | None:
        """The node that makes it if its operator is one of these."""
        return self.node if self.node is not None and self.node.operator in operators else None

    def constant(self, what: str) -> np.ndarray:
        """The values. Raises Unsupported for what is computed at run time, calling it `what`."""
        if self.array is None:
            raise Unsupported(f"{what} must be constant", "compute it before exporting, or export with fixed shapes")
        return self.array


@dataclass(eq=False)
class Node:
    """One operator.

    Attributes:
        operator: its name in operators.py.
        inputs, outputs: what it reads and makes.
        attributes: its parameters, by the names in operators.py.
        name: the name its layer should have.
        origin: the node of the source it comes from, for errors.
    """

    operator: str
    inputs: list[Value]
    outputs: list[Value]
    attributes: dict[str, Any]
    name: str
    origin: str

    def __getitem__(self, attribute: str) -> Any:
        return self.attributes[attribute]

    @property
    def output(self) -> Value:
        """The only output."""
        (value,) = self.outputs
        return value


class Graph:
    """A net as operators.

    Args:
        name: the net's name.

    Attributes:
        inputs: what the net takes.
        output_names: the names of its results.
        results: a node that reads the results, in the order of their names; it is not among `nodes`.
        problems: what could not be read.
        nodes: the operators, each after those it reads from.
    """

    def __init__(self, name: str):
        self.name = name
        self.inputs: list[Value] = []
        self.output_names: list[str] = []
        self.results = Node("results", [], [], {}, "", "")
        self.problems = Problems()
        self.nodes: list[Node] = []
        self._inserted: dict[int, list[Node]] = {}

    def add(
        self,
        operator: str,
        inputs: Sequence[Value],
        shapes: Sequence[Sequence[int]],
        attributes: dict[str, Any],
        name: str,
        origin: str,
    ) -> Node:
        """Append a node. Raises Unsupported for a shape Caffe cannot hold."""
        node = Node(operator, list(inputs), [], attributes, name, origin)
        for shape in shapes:
            check_size(shape)
            node.outputs.append(Value(name, shape, node=node))
        for value in node.inputs:
            value.users.append(node)
        self.nodes.append(node)
        return node

    def add_result(self, name: str, value: Value) -> None:
        """Make a value a result of the net."""
        self.output_names.append(name)
        self.results.inputs.append(value)
        value.users.append(self.results)

    def only_user(self, value: Value) -> Node | None:
        """The one node that reads a value which is no result, if there is exactly one."""
        return value.users[0] if len(value.users) == 1 and value.users[0] is not self.results else None

    def replace(self, old: Value, new: Value) -> None:
        """Let everything that reads `old` read `new`."""
        for node in old.users:
            node.inputs = [new if value is old else value for value in node.inputs]
        new.users += old.users
        old.users = []

    def rewrite(self, node: Node, operator: str, inputs: Sequence[Value], **attributes: Any) -> None:
        """Make a node another operator with the same outputs."""
        for value in node.inputs:
            value.users.remove(node)
        node.operator, node.inputs, node.attributes = operator, list(inputs), attributes
        for value in node.inputs:
            value.users.append(node)

    def insert(self, node: Node, before: Node) -> None:
        """Put a new node, whose inputs know it as a user, before another one, at the next `prune`."""
        self._inserted.setdefault(id(before), []).append(node)

    def prune(self) -> None:
        """Put inserted nodes in their places and drop those that no result depends on."""
        if self._inserted:
            self.nodes = [new for node in self.nodes for new in (*self._inserted.get(id(node), ()), node)]
            self._inserted = {}
        needed = {id(value.node) for value in self.results.inputs if value.node is not None}
        kept = []
        for node in reversed(self.nodes):
            for value in node.inputs:
                value.users = []
            if id(node) in needed:
                kept.append(node)
                needed.update(id(value.node) for value in node.inputs if value.node is not None)
        self.nodes = kept[::-1]
        for value in self.results.inputs:
            value.users = []
        for node in [*self.nodes, self.results]:
            for value in node.inputs:
                value.users.append(node)

    def walk(self, *operators: str) -> Iterator[Node]:
        """The nodes of some operators, as they were when asked, without those rewritten meanwhile."""
        for node in [node for node in self.nodes if node.operator in operators]:
            if node.operator in operators:
                yield node


def check_size(shape: Sequence[int]) -> None:
    """Raise Unsupported for a shape with a negative size, no element, or more than Caffe can hold."""
    count = 1
    for size in shape:
        count *= int(size)
        if size < 1 or count > MAX_COUNT:
            raise Unsupported(f"makes a value of shape {tuple(shape)}", f"Caffe's blobs hold 1 to {MAX_COUNT} numbers")
