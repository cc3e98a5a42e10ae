"""An ONNX graph in the making."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from caffe_bridge.convert.names import key
from caffe_bridge.convert.onnx_export.sizes import Dim, Dims, FixedSizeError

END = np.iinfo(np.int64).max


class GraphBuilder:
    """Collects nodes and initializers, names values, and makes shapes that may vary.

    Args:
        opset: the version of the standard operators.
        target: the program that is to run it, of export.TARGETS.

    Attributes:
        nodes: the nodes so far, in order.
        initializers: constants and weights by name, as contiguous arrays.
        dims: the dims of the values that are blobs of the net.
    """

    def __init__(self, opset: int, target: str):
        self.opset, self.target = opset, target
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.dims: dict[str, Dims] = {}
        self._names: set[str] = set()
        self._prefix = ""
        self._weights: dict[int, str] = {}
        self._constants: dict[tuple[str, Dims, bytes], str] = {}
        self._symbols: dict[str, tuple[str, int]] = {}

    def begin(self, layer: str) -> None:
        """What is added from now on belongs to this layer and is named after it."""
        self._prefix = layer

    def unique(self, wanted: str) -> str:
        """A name no other value has: the wanted one, or that and a number."""
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted}_{number}"
        self._names.add(name)
        return name

    # -- nodes -------------------------------------------------------------------------------------------

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        return self.add_many(operator, inputs, 1, **attributes)[0]

    def add_many(self, operator: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs; returns their names."""
        names = [self.unique(f"{self._prefix}/{operator}") for _ in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=names[0], **attributes))
        return names

    def rename(self, old: str, new: str) -> None:
        """Give the output of a node another name, which `unique` has made."""
        for node in with_bodies(self.nodes):
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new

    def loop(self, count: str, states: Sequence[str], step: Callable[[str, Sequence[str]], Sequence[str]]) -> list[str]:
        """Repeat a step; returns the last states.

        Args:
            count: how many times, an integer tensor ().
            states: the values to begin with.
            step: adds the nodes of one step, given its number, an integer tensor (), and the states; it returns the
                new states and may read values from outside.
        """
        outside, self.nodes = self.nodes, []
        number, going = self.unique(f"{self._prefix}/step"), self.unique(f"{self._prefix}/going")
        before = [self.unique(f"{self._prefix}/state") for _ in states]
        after = step(number, before)
        still = self.add("Identity", going)
        body = helper.make_graph(
            self.nodes,
            self.unique(f"{self._prefix}/body"),
            [
                helper.make_tensor_value_info(number, TensorProto.INT64, []),
                helper.make_tensor_value_info(going, TensorProto.BOOL, []),
                *map(_unknown, before),
            ],
            [helper.make_tensor_value_info(still, TensorProto.BOOL, []), *map(_unknown, after)],
        )
        self.nodes = outside
        return self.add_many("Loop", [count, "", *states], len(states), body=body)

    def declare(self, name: str, dims: Dims) -> None:
        """Say what dims a value has; the first value with a symbol is where its size is read."""
        self.dims[name] = dims
        for axis, dim in enumerate(dims):
            if isinstance(dim, str):
                self._symbols.setdefault(dim, (name, axis))

    # -- constants ---------------------------------------------------------------------------------------

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """An initializer of a value; equal ones are stored once."""
        array = np.array(value, dtype, order="C")
        identity = (array.dtype.str, array.shape, array.tobytes())
        if identity not in self._constants:
            name = self.unique(f"{self._prefix}/constant")
            self.initializers[name] = array
            self._constants[identity] = name
        return self._constants[identity]

    def integers(self, *values: int) -> str:
        """An initializer of 64-bit integers (axes, sizes, positions)."""
        return self.constant(list(values), np.int64)

    def weight(self, layer: Any, index: int) -> str:
        """A layer's blob, stored once however many layers share it, in this layer's shape."""
        parameter = layer.blobs.parameter(index)
        if id(parameter) not in self._weights:
            name = self.unique(key(self._prefix, index))
            self.initializers[name] = np.ascontiguousarray(array_of(parameter)).reshape(tuple(parameter.shape))
            self._weights[id(parameter)] = name
        stored = self._weights[id(parameter)]
        shape = tuple(layer.blobs[index].shape)
        return stored if shape == tuple(parameter.shape) else self.add("Reshape", stored, self.integers(*shape))

    def weight_names(self, layer: Any) -> list[str] | None:
        """The initializers of a layer's blobs, None if one is not stored as it is."""
        names = [self._weights.get(id(layer.blobs.parameter(i)), "") for i in range(len(layer.blobs))]
        return names if all(names) else None

    def filled(self, like: str, value: float) -> str:
        """A value of the shape of another, one number everywhere."""
        return self.add("Expand", self.constant(value), self.add("Shape", like))

    def arange(self, count: Dim) -> str:
        """The integers 0, 1, ... below a number, or below a size that varies."""
        if isinstance(count, int):
            return self.constant(range(count), np.int64)
        limit = self.add("Squeeze", self.shape([count]))
        return self.add("Range", self.constant(0, np.int64), limit, self.constant(1, np.int64))

    # -- parts and types ---------------------------------------------------------------------------------

    def part(self, value: str, axis: int, start: int, end: int = END) -> str:
        """What lies from `start` to `end` along an axis."""
        return self.add("Slice", value, self.integers(start), self.integers(end), self.integers(axis))

    def cast(self, value: str, to: int) -> str:
        """A value in another type, one of TensorProto's."""
        return self.add("Cast", value, to=to)

    # -- shapes ------------------------------------------------------------------------------------------

    def size(self, value: str, axis: int) -> str:
        """The size of a value along an axis, as an integer tensor (1,)."""
        return self.add("Shape", value, start=axis, end=axis + 1)

    def shape(self, dims: Sequence[Dim]) -> str:
        """Dims as an integer tensor; sizes that vary are read from the values that have them.

        Raises FixedSizeError for a symbol that no value has yet.
        """
        parts: list[str] = []
        run: list[int] = []
        for dim in dims:
            if isinstance(dim, int):
                run.append(dim)
                continue
            if dim not in self._symbols:
                raise FixedSizeError(f"can be exported only if the sizes are fixed: '{dim}' follows from no other one")
            if run:
                parts.append(self.integers(*run))
                run = []
            parts.append(self.size(*self._symbols[dim]))
        if run or not parts:
            parts.append(self.integers(*run))
        return self.add("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]

    def reshape(self, value: str, dims: Sequence[Dim]) -> str:
        """A value in another shape; a dim may be a symbol, and one may be -1."""
        target = list(dims)
        unknown = [i for i, dim in enumerate(target) if isinstance(dim, str) and dim not in self._symbols]
        varying = unknown or [i for i, dim in enumerate(target) if isinstance(dim, str)]
        if varying and -1 not in target and 0 not in target:
            target[varying[0]] = -1
        return self.add("Reshape", value, self.shape(target))

    def spread(self, operand: str, axes: int, ndim: int, axis: int) -> str:
        """An operand of `axes` axes with trailing ones, so that it broadcasts over `ndim` axes from `axis` on."""
        trailing = ndim - axis - axes
        if not axes or not trailing:
            return operand
        return self.add("Unsqueeze", operand, self.integers(*range(axes, axes + trailing)))

    def reduce(self, operator: str, value: str, axes: Sequence[int], keepdims: bool = True) -> str:
        """ReduceMean, ReduceSum, ...: the axes became an input at different versions."""
        if self.target == "opencv5" and max(axes) - min(axes) >= len(axes):  # it takes a wrong mean over axes apart
            *first, last = sorted(axes)
            value = self.reduce(operator, value, [last], keepdims)
            return self.reduce(operator, value, first, keepdims)
        if self.opset >= 18 or operator == "ReduceSum":
            return self.add(operator, value, self.integers(*axes), keepdims=int(keepdims))
        return self.add(operator, value, axes=list(axes), keepdims=int(keepdims))

    def pad(self, value: str, starts: Sequence[int], ends: Sequence[int], fill: float) -> str:
        """Images (N, C, H, W) with cells of one number around them."""
        pads = self.integers(0, 0, *starts, 0, 0, *ends)
        return self.add("Pad", value, pads, self.constant(fill))

    def times(self, value: str, factor: float) -> str:
        """A value times a number, itself for 1."""
        return value if factor == 1 else self.add("Mul", value, self.constant(factor))

    def plus(self, value: str, term: float) -> str:
        """A value and a number added, itself for 0."""
        return value if term == 0 else self.add("Add", value, self.constant(term))


def with_bodies(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, and those of the graphs within them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from with_bodies(attribute.g.node)


def _unknown(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def array_of(blob: torch.Tensor) -> np.ndarray:
    """A blob's values in single precision."""
    return blob.detach().to("cpu", torch.float32).numpy()
