"""Which function exports which layer type."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caffe_bridge.convert.registration import import_modules, out_of_place
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Shape

if TYPE_CHECKING:
    from caffe_bridge.convert.onnx_export.builder import GraphBuilder
    from caffe_bridge.convert.onnx_export.sizes import Dims
    from caffe_bridge.graph import Node


@dataclass(frozen=True)
class ExportedLayer:
    """A layer to export, set up.

    `type` is its Caffe type, or module.class of a Python layer. `bottoms` and `tops` are the dims of its blobs:
    numbers, or symbols where sizes vary; `shapes` are the bottoms' shapes at the net's own input shapes.
    """

    layer: Any
    type: str
    shapes: Sequence[Shape]
    bottoms: Sequence[Dims]
    tops: Sequence[Dims]


Exporter = Callable[["GraphBuilder", ExportedLayer, Sequence[str]], Sequence[str]]
ShapeRule = Callable[[Any, list[Shape], int], list[Shape]]
"""The tops' shapes of a layer, from its bottoms' shapes, when its data give it that many rows.

It raises LayerError where the layer would refuse the bottoms.
"""

_exporters: dict[str, Exporter] = {}
_shape_rules: dict[str, ShapeRule] = {}

_FAMILIES = "caffe_bridge.convert.onnx_export.families"


def exports(*types: str, shapes: ShapeRule | None = None) -> Callable[[Exporter], Exporter]:
    """Function decorator: export layers of these Caffe types; a Python layer's type is its module.class.

    The function takes the graph builder, the layer and the names of its bottoms' values, adds the nodes that compute
    the tops, and returns the names of their values. A later registration of a type replaces an earlier one.

    `shapes` is for layers whose tops' sizes depend on data: it foretells them for any number of rows.
    """

    def add(function: Exporter) -> Exporter:
        _exporters.update(dict.fromkeys(types, function))
        for name in types:
            _shape_rules.pop(name, None)
            if shapes is not None:
                _shape_rules[name] = shapes
        return function

    return add


def type_of(node: Node) -> str:
    """The type a layer is exported as: its Caffe type, or module.class of a Python layer."""
    if node.type != "Python":
        return node.type
    param = node.layer.param.python_param
    return f"{param.module}.{param.layer}"


def exported_types() -> dict[str, Exporter]:
    """Layer type to the function that exports it, sorted by type."""
    import_modules(_FAMILIES)
    return dict(sorted(_exporters.items()))


def shape_rule(type_name: str) -> ShapeRule | None:
    """How a type's tops depend on data, None where they do not."""
    import_modules(_FAMILIES)
    return _shape_rules.get(type_name)


def exporter(type_name: str) -> Exporter:
    """The function that exports a type. Raises LayerError, without the layer's name, saying what to do instead."""
    import_modules(_FAMILIES)
    if type_name in _exporters:
        return _exporters[type_name]
    hint = out_of_place(type_name, "export")
    if hint is None:
        near = difflib.get_close_matches(type_name, _exporters, n=1)
        instead = f" (exported is {near[0]})" if near else ""
        hint = f"has no ONNX export{instead}; leave it out, or register a function with @exports('{type_name}')"
    raise LayerError(f"type '{type_name}' {hint}")
