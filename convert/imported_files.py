"""Nets of other frameworks read as Caffe nets; the import itself is convert/caffe_import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caffe_bridge.convert.model import Model


def read_onnx(path: str, *, input_shapes: Mapping[str, Sequence[int]] | None = None, **options: Any) -> Model:
    """An ONNX model as definition and weights; options are those of `caffe_import.import_onnx`."""
    from caffe_bridge.convert.caffe_import import import_onnx

    return _from(path, import_onnx(path, input_shapes=input_shapes, **options))


def read_program(path: str, **options: Any) -> Model:
    """An exported torch program (.pt2) as definition and weights; options are those of `caffe_import.import_program`.

    Nothing in the file is run or unpickled; see `program_archive`.
    """
    from caffe_bridge.convert import program_archive
    from caffe_bridge.convert.caffe_import import import_program

    return _from(path, import_program(program_archive.read_program(path), **options))


def _from(path: str, model: Model) -> Model:
    model.path = path
    return model
