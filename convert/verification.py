"""A converted net against the one it was made from, each run by its own runtime, on the same inputs."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caffe_bridge.convert.changes import Changes
from caffe_bridge.convert.formats import WHOLE, read_model, suffix_of
from caffe_bridge.convert.model import Model
from caffe_bridge.convert.onnx_export.verification import TOLERANCE, can_verify, difference, errors, random_inputs
from caffe_bridge.convert.onnx_files import build_net
from caffe_bridge.convert.program_archive import read_program
from caffe_bridge.convert.surgery.editing import graph_of
from caffe_bridge.convert.torch_files import weights_beside
from caffe_bridge.errors import CaffeError, first_line

__all__ = ["HALF_TOLERANCE", "TOLERANCE", "can_run", "verify"]

_MOST_VALUES = 1 << 28  # of an input, 1 GiB

HALF_TOLERANCE = 5e-2
"""What rounding the weights to half precision may change, in proportion."""

Arrays = Mapping[str, np.ndarray]
Runner = Callable[[Arrays], dict[str, np.ndarray]]
"""Runs a net: its inputs by name to its outputs by name."""


def can_run(suffix: str) -> bool:
    """Whether nets of a format can be run here: .onnx needs onnxruntime."""
    return suffix in (".prototxt", ".pt2", ".py") or (suffix == ".onnx" and can_verify())


def caffe_runner(model: Model, blobs: Sequence[str] = ()) -> Runner:
    """Runs a model as a Net, for its outputs and some blobs."""
    net = build_net(model)

    def run(inputs: Arrays) -> dict[str, np.ndarray]:
        with torch.no_grad():
            tops = net(**{name: torch.as_tensor(array) for name, array in inputs.items()}, blobs=blobs)
        for node in net.graph.nodes:
            reset = getattr(node.layer, "reset", None)
            if callable(reset):
                reset()  # recurrent layers go on where the last pass ended
        return {name: top.numpy() for name, top in tops.items()}

    return run


def runner(files: Sequence[str], model: Model | None) -> Runner:
    """Runs what files hold: an .onnx, a .pt2, a .py (its weights beside it or as the other file), or Caffe's files.

    `model` is what the files were written from, which says how their inputs and outputs are called; None for a file
    from elsewhere, which says so itself.
    """
    graph = graph_of(model) if model is not None else None
    names = (graph.inputs, list(dict.fromkeys(graph.outputs))) if graph is not None else None
    suffixes = [suffix_of(file) for file in files]
    if ".onnx" in suffixes:
        return _onnx_runner(files[0], names)
    if ".pt2" in suffixes:
        program = read_program(files[0])
        return _module_runner(files[0], program.module(), names or _program_names(program))
    if ".py" in suffixes:
        assert names is not None
        path = files[suffixes.index(".py")]
        weights = next((file for file in files if file != path), weights_beside(path))
        namespace: dict[str, Any] = {"__name__": "converted"}
        exec(compile(Path(path).read_text(encoding="utf-8"), path, "exec"), namespace)
        return _module_runner(path, namespace["load"](weights), names)
    return caffe_runner(read_model(files))


def _onnx_runner(path: str, names: tuple[Sequence[str], Sequence[str]] | None) -> Runner:
    if not can_verify():
        raise CaffeError("verifying needs onnxruntime: pip install caffe-bridge[onnxruntime], or give --no-verify")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise CaffeError(f"{path}: onnxruntime cannot run it: {first_line(error)}") from error
    outputs = names[1] if names else [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> dict[str, np.ndarray]:
        try:
            return dict(zip(outputs, session.run(None, dict(inputs))))
        except Exception as error:
            raise CaffeError(f"{path}: onnxruntime cannot run it: {first_line(error)}") from error

    return run


def _module_runner(what: str, module: torch.nn.Module, names: tuple[Sequence[str], Sequence[str]]) -> Runner:
    inputs, outputs = names

    def run(arrays: Arrays) -> dict[str, np.ndarray]:
        try:
            with torch.no_grad():
                made = module(*(torch.as_tensor(arrays[name]) for name in inputs))
        except RuntimeError as error:
            raise CaffeError(f"torch cannot run {what} on these inputs: {first_line(error)}") from error
        values = torch.utils._pytree.tree_leaves(made)
        return {name: value.numpy() for name, value in zip(outputs, values)}

    return run


def _program_names(program: torch.export.ExportedProgram) -> tuple[Sequence[str], Sequence[str]]:
    signature = program.graph_signature
    return [str(name) for name in signature.user_inputs], [str(name) for name in signature.user_outputs]


def correspondence(old: Model, new: Model, changes: Changes) -> dict[str, str]:
    """Each output of the new net, and each input that is no input of the old one, to the blob it is in the old net."""
    before, after = graph_of(old), graph_of(new)
    blobs = changes.old_names(list(dict.fromkeys(after.outputs)), list(before.shapes))
    return blobs | changes.old_names([name for name in after.inputs if name not in before.inputs], list(before.shapes))


def read_inputs(path: str, model: Model) -> Arrays:
    """The arrays of an .npz file for a model's inputs.

    Raises CaffeError for a file that lacks one, or cannot be read.
    """
    graph = graph_of(model)
    names = graph.inputs
    try:
        if Path(path).is_file() and not zipfile.is_zipfile(path):
            raise CaffeError(f"{path}: is no .npz file, which numpy.savez writes")
        with np.load(path, allow_pickle=False) as file:
            given = {name: np.asarray(file[name], np.float32) for name in names if name in file}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CaffeError(f"{path}: cannot be read as arrays: {getattr(error, 'strerror', None) or error}") from error
    missing = [name for name in names if name not in given]
    if missing:
        raise CaffeError(f"{path}: has no array '{missing[0]}', which is an input of the net")
    for name, array in given.items():
        if array.ndim != len(graph.shapes[name]):
            raise CaffeError(f"{path}: array '{name}' has shape {array.shape}, the input {graph.shapes[name]}")
    return given


def random_arrays(model: Model) -> Arrays:
    """Random inputs of a model. Raises CaffeError for inputs beyond 1 GiB."""
    net = build_net(model)
    for name in net.inputs:
        if math.prod(net.graph.shapes[name]) > _MOST_VALUES:
            raise CaffeError(
                f"input '{name}' of shape {net.graph.shapes[name]} is too large to try; --input-shape helps"
            )
    return random_inputs(net)


def compare(
    source: Runner, destination: Runner, inputs: Arrays, changes: Changes, blobs: Mapping[str, str]
) -> dict[str, float]:
    """For each output of the destination its error: max |new - old| / max(1, max |old|), infinity for another size.

    Args:
        source: runs the old net; gives all that `blobs` names.
        destination: runs the new one.
        inputs: of the old net.
        changes: what was changed between the two.
        blobs: new output, or new input that is an inner blob of the old net, to what it is called in the old one.
    """
    old = source(inputs)
    starts = [changes.new_name(blob) for blob in changes.starts]
    given = {changes.new_name(name): changes.new_input(array) for name, array in inputs.items()}
    if starts:
        given = {name: given[name] if name in given else changes.new_input(old[blobs[name]]) for name in starts}
    new = destination(given)
    found = {}
    for output, array in new.items():
        # The outputs of a torch program have no names: each is held to the one that is nearest.
        name = blobs.get(output, output)
        candidates = [old[name]] if name in old else [value for value in old.values() if value.size == array.size]
        shaped = [value.reshape(array.shape) if value.size == array.size else value for value in candidates]
        found[output] = min((difference(array, value) for value in shaped), default=float("inf"))
    return found


def verify(
    sources: Sequence[str],
    destinations: Sequence[str],
    reference: Model,
    model: Model,
    changes: Changes,
    inputs: tuple[str, Arrays] | None = None,
) -> list[tuple[str, dict[str, float]]]:
    """What a written net computes against the one it was made from.

    Args:
        sources: the files of the old net; empty where it is not what they hold.
        destinations: the files of the new one.
        reference, model: the two nets.
        changes: what was changed between them.
        inputs: what they are, and inputs of the old net, to compare on besides random ones.

    Returns:
        for each set of inputs what they are, and each output's error.
    """
    sets = [("random inputs", random_arrays(reference)), *([inputs] if inputs is not None else [])]
    whole = bool(sources) and suffix_of(sources[0]) in WHOLE and not (changes.outputs or changes.starts)
    if suffix_of(destinations[0]) == ".onnx" and not whole and not changes.any():
        net = build_net(model)
        return [(title, errors(net, destinations[0], arrays)) for title, arrays in sets]
    new = runner(destinations, model)
    blobs = correspondence(reference, model, changes)
    if whole and can_run(suffix_of(sources[0])):
        old = runner(sources, None)
    else:
        old = caffe_runner(reference, list(blobs.values()))
    return [(title, compare(old, new, arrays, changes, blobs)) for title, arrays in sets]
