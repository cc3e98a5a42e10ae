"""Run, train and convert Caffe models in PyTorch, with Caffe's own numbers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from caffe_bridge.errors import CaffeError, LayerError, PrototxtError, SolverError, WeightsError
from caffe_bridge.registry import register, register_python

if TYPE_CHECKING:
    from caffe_bridge.layers.base import Layer
    from caffe_bridge.net import Net
    from caffe_bridge.solver import Solver

__version__ = "0.1.0"

_LAZY = {"Net": "net", "Solver": "solver", "Layer": "layers.base"}
_LAZY_MODULES = ("config", "optim", "pycaffe")

__all__ = [
    "CaffeError",
    "Layer",
    "LayerError",
    "Net",
    "PrototxtError",
    "Solver",
    "SolverError",
    "WeightsError",
    "register",
    "register_python",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"caffe_bridge.{_LAZY[name]}"), name)
    if name in _LAZY_MODULES:
        return importlib.import_module(f"caffe_bridge.{name}")
    raise AttributeError(f"module 'caffe_bridge' has no attribute {name!r}")
