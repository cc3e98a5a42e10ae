"""Which function writes which layer type as PyTorch source."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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

_DATA = {"AnnotatedData", "Data", "DummyData", "HDF5Data", "ImageData", "MemoryData", "WindowData"}

_TRAINING = {"Accuracy", "BoxAnnotatorOHEM", "DetectionEvaluate", "HDF5Output"}


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
    package = importlib.import_module("caffe_bridge.convert.torch_export.families")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_writers.items()))


def writer(type_name: str) -> Writer:
    """The function that writes a type. Raises LayerError, without the layer's name, saying what to do instead."""
    known = written_types()
    if type_name in known:
        return known[type_name]
    if type_name in _DATA:
        hint = "reads data; convert the deploy net, whose inputs are Input layers"
    elif type_name.endswith("Loss") or type_name in _TRAINING:
        hint = "is for training and testing; leave it out, or convert the deploy net"
    else:
        near = difflib.get_close_matches(type_name, known, n=1)
        instead = f" (written is {near[0]})" if near else ""
        hint = f"cannot be written as PyTorch source{instead}; end the net before it, or register a function with "
        hint += f"@writes('{type_name}')"
    raise LayerError(f"type '{type_name}' {hint}")
