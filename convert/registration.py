"""What the registries of converters share: importing the modules that register, and why some layers are refused."""

from __future__ import annotations

import functools
import importlib
import pkgutil

_DATA = {"AnnotatedData", "Data", "DummyData", "HDF5Data", "ImageData", "MemoryData", "WindowData"}
_TRAINING = {"Accuracy", "BoxAnnotatorOHEM", "DetectionEvaluate", "HDF5Output"}


@functools.cache
def import_modules(package: str) -> None:
    """Import every module of a package, for what the modules register; once in a process."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


def out_of_place(type_name: str, verb: str) -> str | None:
    """What a layer type that a deploy net has no place for does, and what to do instead; None for any other.

    `verb` is what is done with nets here, such as "export".
    """
    if type_name in _DATA:
        return f"reads data; {verb} the deploy net, whose inputs are Input layers"
    if type_name.endswith("Loss") or type_name in _TRAINING:
        return f"is for training and testing; leave it out, or {verb} the deploy net"
    return None
