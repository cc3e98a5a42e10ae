"""Flat tables of tensors: safetensors and torch state dicts."""

from __future__ import annotations

import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file

from caffe_bridge import schema, text_format
from caffe_bridge.convert.model import Model
from caffe_bridge.convert.names import key, split_keys
from caffe_bridge.errors import CaffeError, WeightsError
from caffe_bridge.weights.files import map_file, replacing

DEFINITION = "caffe_bridge.net"  # safetensors metadata: the net's prototxt
_TORCH_ERRORS = (  # torch.load on damaged files
    *(AssertionError, AttributeError, EOFError, LookupError, OSError),
    *(RuntimeError, TypeError, ValueError, struct.error, zipfile.BadZipFile),
)


def read_safetensors(path: str) -> Model:
    """A .safetensors with tensors named LAYER.INDEX; the net's definition from its metadata, if there."""
    tensors, metadata = load_safetensors(path)
    text = metadata.get(DEFINITION)
    model = _model(path, tensors)
    if text is not None:
        model.definition = schema.NetParameter()
        text_format.parse(text, model.definition, f"{path} (metadata)")
        order = {layer.name: i for i, layer in enumerate(model.definition.layer)}
        model.layers = dict(sorted(model.layers.items(), key=lambda item: order.get(item[0], len(order))))
    return model


def load_safetensors(path: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of a .safetensors, whatever their names. Raises WeightsError."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (safetensors.SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors: {error}") from error


def write_safetensors(path: str, model: Model) -> None:
    """A .safetensors of the blobs in their dtypes; the definition goes into the metadata."""
    with replacing(path) as temporary:
        save_tensors(temporary, _tensors(model), {DEFINITION: text_format.format(model.defined())})


def save_tensors(path: str, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as .safetensors into a file that exists, one that lies in another's memory as well.

    The file keeps its mode: left to itself safetensors makes one that nobody else can read.
    """
    apart, seen = dict(tensors), set[int]()
    for name, tensor in tensors.items():
        if tensor.data_ptr() in seen:
            apart[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    mode = os.stat(path).st_mode
    save_file(apart, path, {"format": "pt", **(metadata or {})})
    os.chmod(path, mode)


def read_state_dict(path: str) -> Model:
    """A torch file holding a dict of tensors named LAYER.INDEX, or a `Net.state_dict()`. Runs no code of the file."""
    return _model(path, load_torch(path))


def load_torch(path: str) -> Mapping[str, torch.Tensor]:
    """The dict of tensors a torch file holds, whatever their names. Runs no code of the file; raises WeightsError."""
    contents = map_file(path)
    head = contents[:2]
    if head not in (b"PK", b"\x80\x02"):
        raise WeightsError(f"{path}: not a file as torch.save writes it")
    # The older format is read from the mapping, which, unlike a file, takes no memory for a string that is not there.
    source: Any = path if head == b"PK" else contents
    try:
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=source is path)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: is no torch file of tensors alone; other objects are refused, since loading them can run code"
        ) from error
    except _TORCH_ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path}: cannot be read as a torch file: {reason}") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(f"{path}: entry {name!r} is a {type(value).__name__}; a state dict has tensors only")
    return content


def write_state_dict(path: str, model: Model) -> None:
    """A torch file with a dict of the blobs; `torch.load(path, weights_only=True)` reads it."""
    with replacing(path) as temporary:
        torch.save(_tensors(model), temporary)


def _model(path: str, tensors: Mapping[str, torch.Tensor]) -> Model:
    try:
        places = split_keys(tensors)
    except CaffeError as error:
        raise WeightsError(f"{path}: {error}") from error
    layers: dict[str, list[Any]] = {}
    for name, (layer, index) in places.items():
        blobs = layers.setdefault(layer, [])
        if index >= len(places):
            raise WeightsError(f"{path}: tensor '{name}' is blob {index}, but the file holds {len(places)} blobs")
        blobs.extend([None] * (index + 1 - len(blobs)))
        blobs[index] = tensors[name]
    for layer, blobs in layers.items():
        if any(blob is None for blob in blobs):
            raise WeightsError(
                f"{path}: layer '{layer}' has no blob {blobs.index(None)} ('{key(layer, blobs.index(None))}')"
            )
    return Model(path, layers)


def _tensors(model: Model) -> dict[str, torch.Tensor]:
    layers = model.completed()
    return {key(layer, i): as_tensor(blob) for layer, blobs in layers.items() for i, blob in enumerate(blobs)}


def as_tensor(blob: Any) -> torch.Tensor:
    """A blob as a contiguous tensor, for reading: it lies in the same memory where that is possible."""
    if isinstance(blob, torch.Tensor):
        return blob.detach().contiguous()
    array = np.asarray(blob, order="C").astype(blob.dtype.newbyteorder("="), copy=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")  # it is only read
        return torch.from_numpy(array)
