"""Where layer classes are found by their Caffe type name."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from caffe_bridge.errors import LayerError

if TYPE_CHECKING:
    from caffe_bridge.layers.base import Layer

LayerClass = TypeVar("LayerClass", bound="type[Layer]")

_layers: dict[str, type[Layer]] = {}
_python_layers: dict[tuple[str, str], type] = {}


def register(type_name: str, source: str = "BVLC") -> Callable[[LayerClass], LayerClass]:
    """Class decorator: make a `Layer` subclass answer to `type: "type_name"` in a prototxt.

    `source` names the Caffe fork the type comes from. A second registration of a name replaces the first,
    so a user can override a built-in layer.
    """

    def add(cls: LayerClass) -> LayerClass:
        cls.source = source
        _layers[type_name] = cls
        return cls

    return add


def register_python(module: str, layer: str) -> Callable[[type], type]:
    """Class decorator: answer to `type: "Python"` with `python_param { module: "module" layer: "layer" }`.

    The class is either a `Layer` subclass (runs natively on tensors) or a pycaffe-style layer with
    setup, reshape, forward and backward over blobs.
    """

    def add(cls: type) -> type:
        _python_layers[module, layer] = cls
        return cls

    return add


def layer_class(type_name: str) -> type[Layer]:
    """The class registered for a Caffe layer type.

    Raises LayerError naming the nearest registered types when there is none.
    """
    importlib.import_module("caffe_bridge.layers")
    if type_name not in _layers:
        near = difflib.get_close_matches(type_name, _layers, n=3)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise LayerError(
            f"unknown layer type '{type_name}'{hint}; register your own with @caffe_bridge.register('{type_name}')"
        )
    return _layers[type_name]


def python_layer_class(module: str, layer: str) -> type | None:
    """The class registered for a Python layer's (module, layer), or None."""
    importlib.import_module("caffe_bridge.layers")
    return _python_layers.get((module, layer))


def layer_types() -> list[str]:
    """Every registered layer type, sorted."""
    importlib.import_module("caffe_bridge.layers")
    return sorted(_layers)


def python_layers() -> list[tuple[str, str]]:
    """(module, layer) of every registered Python layer, sorted."""
    importlib.import_module("caffe_bridge.layers")
    return sorted(_python_layers)
