"""Which converter reads and which writes a file, by its extension, and how command-line arguments are told apart.

A format is one function that reads a file into a `Model`, one that writes a `Model`, or both; registering it here is
all that a new format needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from caffe_bridge.convert import caffe_files, imported_files, onnx_half, tensor_files, torch_files
from caffe_bridge.convert.model import Model
from caffe_bridge.errors import CaffeError

READERS: dict[str, Callable[..., Model]] = {
    ".caffemodel": caffe_files.read_weights,
    ".h5": caffe_files.read_weights,
    ".hdf5": caffe_files.read_weights,
    ".safetensors": tensor_files.read_safetensors,
    ".pt": tensor_files.read_state_dict,
    ".pth": tensor_files.read_state_dict,
    ".prototxt": caffe_files.read_prototxt,
    ".onnx": imported_files.read_onnx,
    ".pt2": imported_files.read_program,
}

WRITERS: dict[str, Callable[..., None]] = {
    ".caffemodel": caffe_files.write_caffemodel,
    ".h5": caffe_files.write_hdf5,
    ".hdf5": caffe_files.write_hdf5,
    ".safetensors": tensor_files.write_safetensors,
    ".pt": tensor_files.write_state_dict,
    ".pth": tensor_files.write_state_dict,
    ".prototxt": caffe_files.write_prototxt,
    ".onnx": onnx_half.write_onnx,
    ".pt2": torch_files.write_program,
    ".py": torch_files.write_source,
}

WHOLE = (".onnx", ".pt2")
"""Formats that hold a net by themselves, definition and weights."""

CAFFE_WEIGHTS = (".caffemodel", ".h5", ".hdf5", ".safetensors", ".pt", ".pth")
PAIRS = [(".prototxt", suffix) for suffix in CAFFE_WEIGHTS] + [(".py", ".safetensors")]
"""Two files that one net is written to."""


def suffix_of(path: str, known: Iterable[str] = (*READERS, *WRITERS)) -> str:
    """The known extension of a file, "" if it has none."""
    return next((suffix for suffix in known if path.lower().endswith(suffix)), "")


def _find(path: str, table: Mapping[str, Callable], what: str) -> Callable:
    suffix = suffix_of(path, table)
    if not suffix:
        raise CaffeError(f"{path}: no format {what} is named so; known are {', '.join(table)}")
    return table[suffix]


def find_reader(path: str) -> Callable[..., Model]:
    """What reads a file of this name. Raises CaffeError when nothing does."""
    return _find(path, READERS, "to read")


def find_writer(path: str) -> Callable[..., None]:
    """What writes a file of this name. Raises CaffeError when nothing does."""
    return _find(path, WRITERS, "to write")


def arranged(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """Command-line arguments as sources and destinations.

    The last file is a destination, and the one before it too if the two are a pair (a .prototxt and a weights file in
    any order, or a .py and a .safetensors) and a whole net comes before them: an .onnx or .pt2, or a prototxt and
    weights. Whether files exist does not matter.
    """
    before, pair = list(paths[:-2]), {suffix_of(path) for path in paths[-2:]}
    suffixes = {suffix_of(path) for path in before}
    whole = suffixes & {*WHOLE} or (".prototxt" in suffixes and suffixes & {*CAFFE_WEIGHTS})
    count = 2 if whole and any(pair == set(known) for known in PAIRS) else 1
    return list(paths[:-count]), list(paths[-count:])


def read_model(sources: Sequence[str], **options: Mapping[str, Any]) -> Model:
    """A net from one or more files.

    Args:
        sources: an .onnx or .pt2; or a weights file, and a prototxt if the layers' types, parameters and sharing are
            to come from there; or a prototxt alone.
        options: extension to keyword arguments of its reader, without the dot.

    Raises:
        CaffeError: a file cannot be read, has an unknown extension, or two hold the same thing.
    """
    model = Model(sources[0])
    for source in sources:
        read, suffix = find_reader(source), suffix_of(source)
        if suffix in WHOLE and len(sources) > 1:
            raise CaffeError(f"{source}: holds a whole net; give it as the only source")
        found = read(source, **options.get(suffix[1:], {}))
        if suffix == ".prototxt":
            model.definition = found.definition
            continue
        if model.layers:
            raise CaffeError(f"{source}: {model.path} holds weights too; give one weights file")
        model.path, model.layers = source, found.layers
        model.definition = model.definition or found.definition
    return model


def write_model(model: Model, destinations: Sequence[str], **options: Any) -> None:
    """Write a net to the file or the pair of files that `arranged` gives.

    `options` are keyword arguments of the writer of the destination that has any: .onnx, or .py.
    """
    writers = [find_writer(destination) for destination in destinations]
    suffixes = [suffix_of(destination) for destination in destinations]
    if suffixes != [".prototxt"] and not model.layers and _has_weights(model):
        raise CaffeError(f"{model.path}: no weights to convert")
    if ".py" in suffixes:
        path = destinations[suffixes.index(".py")]
        weights = next((other for other in destinations if other != path), None)
        torch_files.write_source(path, model, weights=weights, **options)
        return
    for destination, suffix, write in zip(destinations, suffixes, writers):
        write(destination, model, **(options if suffix == ".onnx" else {}))


def convert(sources: Sequence[str], *destinations: str, **options: Any) -> Model:
    """Read a net from one or more files and write it as the destination's extension says.

    Args:
        sources: see `read_model`.
        destinations: the file to write, or a pair of them; replaced in one step each.
        options: keyword arguments of the destination's writer.

    Returns:
        what was written.

    Raises:
        CaffeError: see `read_model` and the writers.
    """
    for destination in destinations:
        find_writer(destination)
    model = read_model(sources)
    write_model(model, destinations, **options)
    return model


def _has_weights(model: Model) -> bool:
    """Whether a model without any blob lacks them; a net may have no parameters at all."""
    if model.definition is None:
        return True
    from caffe_bridge.convert.surgery.editing import graph_of

    return any(len(node.layer.blobs) for node in graph_of(model).nodes)
