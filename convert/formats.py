"""Which converter reads and which writes a file, by its extension.

A format is one function that reads a file into a `Model`, one that writes a `Model`, or both; registering it here is
all that a new format needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from caffe_bridge.convert import caffe_files, onnx_files, tensor_files
from caffe_bridge.convert.model import Model
from caffe_bridge.errors import CaffeError

READERS: dict[str, Callable[[str], Model]] = {
    ".caffemodel": caffe_files.read_weights,
    ".h5": caffe_files.read_weights,
    ".hdf5": caffe_files.read_weights,
    ".safetensors": tensor_files.read_safetensors,
    ".pt": tensor_files.read_state_dict,
    ".pth": tensor_files.read_state_dict,
    ".prototxt": caffe_files.read_prototxt,
}

WRITERS: dict[str, Callable[..., None]] = {
    ".caffemodel": caffe_files.write_caffemodel,
    ".h5": caffe_files.write_hdf5,
    ".hdf5": caffe_files.write_hdf5,
    ".safetensors": tensor_files.write_safetensors,
    ".pt": tensor_files.write_state_dict,
    ".pth": tensor_files.write_state_dict,
    ".onnx": onnx_files.write_onnx,
}


def _find(path: str, table: Mapping[str, Callable], what: str) -> Callable:
    for suffix, function in table.items():
        if path.lower().endswith(suffix):
            return function
    raise CaffeError(f"{path}: no format {what} is named so; known are {', '.join(table)}")


def find_reader(path: str) -> Callable[[str], Model]:
    """What reads a file of this name. Raises CaffeError when nothing does."""
    return _find(path, READERS, "to read")


def find_writer(path: str) -> Callable[..., None]:
    """What writes a file of this name. Raises CaffeError when nothing does."""
    return _find(path, WRITERS, "to write")


def convert(sources: Sequence[str], destination: str, **options: Any) -> Model:
    """Read a net from one or more files and write it as the destination's extension says.

    Args:
        sources: a weights file, and a prototxt if the layers' types, parameters and sharing are to come from there.
        destination: the file to write; replaced in one step.
        options: keyword arguments of the destination's writer.

    Returns:
        what was written.

    Raises:
        CaffeError: a file cannot be read or written, has an unknown extension, or two hold the same thing.
    """
    write = find_writer(destination)
    model = Model(destination)
    for source in sources:
        found = find_reader(source)(source)
        if found.layers:
            if model.layers:
                raise CaffeError(f"{source}: {model.path} holds weights too; give one weights file")
            model.path, model.layers = source, found.layers
            model.definition = model.definition or found.definition
        else:
            model.definition = found.definition
    if not model.layers:
        raise CaffeError(f"{' '.join(sources)}: no weights to convert")
    write(destination, model, **options)
    return model
