"""Which function exports which layer type."""

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
    from caffe_bridge.convert.onnx_export.builder import GraphBuilder
    from caffe_bridge.convert.onnx_export.sizes import Dims


@dataclass(frozen=True)
class ExportedLayer:
    """A layer to export, set up.

    `bottoms` and `tops` are the dims of its blobs: numbers, or symbols where sizes vary; `shapes` are the bottoms'
    shapes at the net's own input shapes.
    """

    layer: Any
    type: str
    shapes: Sequence[Shape]
    bottoms: Sequence[Dims]
    tops: Sequence[Dims]


Exporter = Callable[["GraphBuilder", ExportedLayer, Sequence[str]], Sequence[str]]

_exporters: dict[str, Exporter] = {}

_DATA = {"AnnotatedData", "Data", "DummyData", "HDF5Data", "ImageData", "MemoryData", "WindowData"}
_DETECTION = {
    "BoxAnnotatorOHEM",
    "DetectionEvaluate",
    "DetectionOutput",
    "MaskPooling",
    "PSROIPooling",
    "Proposal",
    "ROIPooling",
    "ROIWarping",
    "YoloDetectionOutput",
    "Yolov3DetectionOutput",
}


def exports(*types: str) -> Callable[[Exporter], Exporter]:
    """Function decorator: export layers of these Caffe types.

    The function takes the graph builder, the layer and the names of its bottoms' values, adds the nodes that compute
    the tops, and returns the names of their values. A later registration of a type replaces an earlier one.
    """

    def add(function: Exporter) -> Exporter:
        _exporters.update(dict.fromkeys(types, function))
        return function

    return add


def exported_types() -> dict[str, Exporter]:
    """Layer type to the function that exports it, sorted by type."""
    package = importlib.import_module("caffe_bridge.convert.onnx_export.families")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_exporters.items()))


def exporter(type_name: str) -> Exporter:
    """The function that exports a type. Raises LayerError, without the layer's name, saying what to do instead."""
    known = exported_types()
    if type_name in known:
        return known[type_name]
    if type_name in _DATA:
        hint = "reads data; export the deploy net, whose inputs are Input layers"
    elif type_name.endswith("Loss") or type_name in ("Accuracy", "HDF5Output"):
        hint = "is for training and testing; leave it out, or export the deploy net"
    elif type_name in _DETECTION or type_name == "Python":
        hint = "has no ONNX export; end the net before it and do this step outside, with caffe_bridge.layers"
    else:
        near = difflib.get_close_matches(type_name, known, n=1)
        instead = f" (exported is {near[0]})" if near else ""
        hint = f"has no ONNX export{instead}; leave it out, or register a function with @exports('{type_name}')"
    raise LayerError(f"type '{type_name}' {hint}")
