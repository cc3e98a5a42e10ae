"""The source of a PyTorch module in the making."""

from __future__ import annotations

import functools
import keyword
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from caffe_bridge import schema, text_format
from caffe_bridge.convert.torch_export.parts import parts
from caffe_bridge.convert.torch_export.registry import WrittenLayer

WIDTH = 120
_LONGEST = 80
_MODULE_NAMES = {*dir(nn.Module()), "training"}
_VARIABLE_NAMES = {"LAYERS", "functools", "self", "torch", "nn", "F", "math", "Tensor"}


@dataclass(frozen=True)
class Weight:
    """Values of a module's parameter or buffer, and the blob they are, where they are exactly that blob."""

    values: torch.Tensor
    blob: tuple[str, int] | None = None


class ModuleSource:
    """Collects the submodules, the steps of `forward` and the tensors of a module.

    Attributes:
        setup: the lines of `__init__`.
        tensors: state dict key to values; a parameter that several submodules share is there once.
        used: names of the parts that the source uses.
        notes: definitions of layers, by the keys under which the source has them in its table LAYERS.
    """

    def __init__(self) -> None:
        self.setup: list[str] = []
        self.tensors: dict[str, torch.Tensor] = {}
        self.used: set[str] = set()
        self.notes: dict[str, str] = {}
        self._modules: set[str] = set()
        self._layer = ""
        self._stored: dict[tuple[tuple[str, int], tuple[int, ...]], str] = {}

    def begin(self, layer: str) -> None:
        """What is added from now on belongs to this layer and is named after it."""
        self._layer = layer

    def submodule(self, made: str, **weights: Weight) -> str:
        """Add a submodule, made by the expression `made`; returns the expression that reads it.

        `weights` are its parameters and buffers by their names in it.
        """
        name = identifier(self._layer, self._modules, _MODULE_NAMES)
        self.setup.append(f"self.{name} = {made}")
        for key, weight in weights.items():
            self._store(f"{name}.{key}", weight)
        return f"self.{name}"

    def module(self, made: str, *inputs: str, **weights: Weight) -> str:
        """Add a submodule; returns the expression that calls it on the inputs, which are expressions too."""
        return f"{self.submodule(made, **weights)}({', '.join(inputs)})"

    def parameter(self, weight: Weight) -> str:
        """Add a parameter of the module itself; returns the expression that reads it."""
        name = identifier(self._layer, self._modules, _MODULE_NAMES)
        self.setup.append(f"self.{name} = nn.Parameter(torch.empty({tuple(weight.values.shape)}))")
        self._store(name, weight)
        return f"self.{name}"

    def part(self, name: str) -> str:
        """The name of a part, which the file will hold."""
        assert name in parts(), name
        self.used.add(name)
        return name

    def note(self, node: WrittenLayer, bottoms: int | None = None) -> Expression:
        """Put the layer's definition into the file; returns the expression that reads it.

        Operators of exported programs carry it (parts/operators.py). `bottoms` is how many of them the operator takes,
        all if not given.
        """
        param = schema.LayerParameter()
        param.CopyFrom(node.layer.param)
        for field in ("blobs", "param", "include", "exclude", "phase", "loss_weight", "propagate_down"):
            param.ClearField(field)
        del param.bottom[bottoms if bottoms is not None else len(param.bottom) :]
        key, number = node.name, 1
        while key in self.notes:
            number += 1
            key = f"{node.name} ({number})"
        self.notes[key] = text_format.format(param)
        return Expression(f"LAYERS[{literal(key)}]")

    def _store(self, key: str, weight: Weight) -> None:
        if weight.blob is not None:
            place = (weight.blob, tuple(weight.values.shape))
            if place in self._stored:
                self.setup.append(f"self.{key} = self.{self._stored[place]}")
                return
            self._stored[place] = key
        self.tensors[key] = weight.values.detach().cpu().contiguous()


def blob(node: WrittenLayer, index: int, shape: Sequence[int] | None = None) -> Weight:
    """A layer's blob, in another shape if given; shared where the layer shares it."""
    values = node.layer.blobs[index]
    return Weight(values.reshape(tuple(shape)) if shape is not None else values, node.owners[index])


def bias_of(node: WrittenLayer, index: int = 1) -> dict[str, Weight]:
    """The layer's bias, if it has one, under the name `bias`."""
    return {"bias": blob(node, index)} if len(node.layer.blobs) > index else {}


def call(function: str, *arguments: Any, **keywords: Any) -> str:
    """A call with numbers, strings, expressions and tuples of them; keywords that are None are left out."""
    given = [literal(argument) for argument in arguments]
    given += [f"{key}={literal(value)}" for key, value in keywords.items() if value is not None]
    return f"{function}({', '.join(given)})"


class Expression(str):
    """Source that stands as it is where `call` writes a value."""


def literal(value: Any) -> str:
    """Source of a number, string, flag or (nested) tuple or list; single precision numbers as short as they can be."""
    if isinstance(value, Expression):
        return str(value)
    if isinstance(value, (tuple, list)):
        inner = ", ".join(literal(item) for item in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
    if isinstance(value, float):
        if float(np.float32(value)) == value:
            value = float(str(np.float32(value)))
        return repr(int(value)) + ".0" if value.is_integer() and abs(value) < 1e9 else _float(value)
    if isinstance(value, str):
        return '"' + value.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'
    return repr(value)


def _float(value: float) -> str:
    return repr(value) if np.isfinite(value) else f'float("{value}")'


def side(values: Sequence[int], default: int | None = None) -> Any:
    """Values per axis as one number where they are equal; None if that is the default."""
    first = values[0] if len(set(values)) == 1 else None
    return None if first is not None and first == default else tuple(values) if first is None else first


def identifier(wanted: str, taken: set[str], reserved: Collection[str] = ()) -> str:
    """A name for Python source that resembles the wanted one and is not taken yet; takes it."""
    plain = re.sub(r"\W", "_", wanted, flags=re.ASCII)[:_LONGEST]
    plain = re.sub(r"^(?=\d)|^_+", "_", plain)  # two underscores in front would be mangled
    plain = "_0" if plain in ("", "_") else plain
    if keyword.iskeyword(plain) or keyword.issoftkeyword(plain) or plain in reserved:
        plain += "_"
    name, number = plain, 1
    while name in taken:
        number += 1
        name = f"{plain}_{number}"
    taken.add(name)
    return name


@functools.cache
def variable_names() -> frozenset[str]:
    """Names that variables of `forward` must not have."""
    return frozenset({*_VARIABLE_NAMES, *parts()})


def wrapped(line: str, indent: int) -> list[str]:
    """A line of source, indented; one that is too long has what its last brackets hold on lines of its own."""
    prefix = " " * indent
    if len(line) + indent <= WIDTH or line[-1] not in ")]":
        return [prefix + line]
    depth, commas, start = 0, [], -1
    for i in range(len(line) - 1, -1, -1):
        depth += (line[i] in ")]") - (line[i] in "([")
        if depth == 1 and line[i] == ",":
            commas.append(i)
        if depth == 0:
            start = i
            break
    ends = [start, *reversed(commas), len(line) - 1]
    lines = [prefix + line[: start + 1]]
    for a, b in zip(ends, ends[1:]):
        lines += wrapped(line[a + 1 : b].strip(), indent + 4)
        lines[-1] += ","
    return [*lines, prefix + line[-1]]
