"""Which function writes which layer type as PyTorch source."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caffe_bridge.convert.registration import import_modules, out_of_place
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Shape

if TYPE_CHECKING:
    from caffe_bridge.convert.torch_export.source import ModuleSource


@dataclass(frozen=True)
class WrittenLayer:
    """A layer to write, set up.

    Attributes:
        name, type: as in the prototxt; of a Python layer the type is MODULE.LAYER.
        layer: the layer itself, with its parameters.
        bottoms, tops: the shapes of its blobs at the net's own input shapes.
        owners: (layer name, index) of the parameter that each of its blobs shares, itself if none.
        scale: the Scale layer that a BatchNorm's values go through alone and that is written with it, if any.
    """

    name: str
    type: str
    layer: Any
    bottoms: Sequence[Shape]
    tops: Sequence[Shape]
    owners: Sequence[tuple[str, int]]
    scale: WrittenLayer | None = None


Writer = Callable[["ModuleSource", WrittenLayer, Sequence[str]], str]

_writers: dict[str, Writer] = {}

_FAMILIES = "caffe_bridge.convert.torch_export.families"


def writes(*types: str) -> Callable[[Writer], Writer]:
    """Function decorator: write layers of these Caffe types (Python layers: MODULE.LAYER) as PyTorch source.

    The function takes the source in the making, the layer and the names of the variables that hold its bottoms. It
    returns the expression of its top, of a tuple where there are several, "" where there is none. A later
    registration of a type replaces an earlier one.
    """

    def add(function: Writer) -> Writer:
        _writers.update(dict.fromkeys(types, function))
        return function

    return add


def written_types() -> dict[str, Writer]:
    """Layer type to the function that writes it, sorted by type."""
    import_modules(_FAMILIES)
    return dict(sorted(_writers.items()))


def writer(type_name: str) -> Writer:
    """The function that writes a type. Raises LayerError, without the layer's name, saying what to do instead."""
    import_modules(_FAMILIES)
    if type_name in _writers:
        return _writers[type_name]
    hint = out_of_place(type_name, "convert")
    if hint is None:
        near = difflib.get_close_matches(type_name, _writers, n=1)
        instead = f" (written is {near[0]})" if near else ""
        hint = f"cannot be written as PyTorch source{instead}; end the net before it, or register a function with "
        hint += f"@writes('{type_name}')"
    raise LayerError(f"type '{type_name}' {hint}")
