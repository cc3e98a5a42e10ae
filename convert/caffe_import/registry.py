"""Which function writes which operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from caffe_bridge.convert.registration import import_modules

if TYPE_CHECKING:
    from caffe_bridge.convert.caffe_import.graph import Node
    from caffe_bridge.convert.caffe_import.writer import NetWriter

Emitter = Callable[["NetWriter", "Node", list[str]], "str | list[str]"]

_emitters: dict[str, Emitter] = {}


def emits(*operators: str) -> Callable[[Emitter], Emitter]:
    """Function decorator: write these operators of operators.py.

    The function takes the writer, the node and the blobs of its inputs (empty for constants), adds layers, and returns
    the blobs of the outputs. It raises Unsupported for what the dialect cannot express.
    """

    def add(function: Emitter) -> Emitter:
        _emitters.update(dict.fromkeys(operators, function))
        return function

    return add


def emitters() -> dict[str, Emitter]:
    """Operator to its function, sorted."""
    import_modules("caffe_bridge.convert.caffe_import.families")
    return dict(sorted(_emitters.items()))
