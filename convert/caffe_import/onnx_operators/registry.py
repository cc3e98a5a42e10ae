"""How a function is made the reader of ONNX operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.onnx_node import OnnxNode

Inputs = Sequence[Any]
Converter = Callable[[Builder, OnnxNode, Inputs], "Value | list[Value]"]

CONVERTERS: dict[str, Converter] = {}
"""ONNX operator to its function, which gets the builder, the node and its inputs (None where left out)."""


def converts(*operators: str) -> Callable[[Converter], Converter]:
    """Function decorator: the function reads these operators."""

    def add(function: Converter) -> Converter:
        CONVERTERS.update(dict.fromkeys(operators, function))
        return function

    return add


def constants(inputs: Inputs) -> list[Any]:
    """The arrays of constant inputs, None for others."""
    return [None if value is None else value.array for value in inputs]


def optional(inputs: Inputs, index: int) -> Any:
    """An input, None where left out."""
    return inputs[index] if index < len(inputs) else None
