"""Weights and solver states in HDF5: /data/LAYER/INDEX as Caffe lays it out."""

from __future__ import annotations

import contextlib
import math
import mmap
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from caffe_bridge.errors import CaffeError, WeightsError
from caffe_bridge.weights.contents import Shape, StoredBlob, Weights, shape_problem
from caffe_bridge.weights.files import replacing, to_array

MAX_DEPTH = 32
MAX_LINKS = 1 << 17
MAX_BLOBS = 1 << 10
MAX_EXPANSION, MAX_UNPACKED = 10, 64 << 20
"""What a file may unpack to: so many times its size and so many bytes."""
MAX_TEXT = 1 << 16
SHUFFLE, DEFLATE, FLETCHER32 = h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32
FILTERS = ((), (SHUFFLE,), (DEFLATE,), (SHUFFLE, DEFLATE))
"""What chunks may be packed with, a checksum at the end aside. HDF5 unpacks whatever a chunk says, so deflated ones are
measured first."""

Owners = Mapping[str, Sequence[tuple[str, int]]]


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Errors of the HDF5 library as WeightsErrors that name the file."""
    try:
        yield
    except CaffeError:
        raise
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = str(error).strip("'\"").splitlines() or [type(error).__name__]
        raise WeightsError(f"{path}: the HDF5 file is truncated or corrupt: {reason[0]}") from error


def open_file(path: str) -> h5py.File:
    """Open for reading; other processes may hold it open."""
    with explained(path):
        return h5py.File(path, "r", locking=False)


def has(group: h5py.Group, key: str) -> bool:
    """Whether a group has a link of this name, wherever it leads (h5py's `in` follows it)."""
    return group.id.links.exists(key.encode("utf-8", "surrogateescape"))


def child(path: str, group: h5py.Group, key: str) -> Any:
    """A member of a group. Links that lead elsewhere and data kept elsewhere are refused before they are followed."""
    name = key.encode("utf-8", "surrogateescape")
    where = f"{path}: {group.name.rstrip('/')}/{key}"
    kind = group.id.links.get_info(name).type
    if kind == h5py.h5l.TYPE_EXTERNAL:
        raise WeightsError(f"{where} is a link into another file; such links are not followed")
    if kind != h5py.h5l.TYPE_HARD:
        raise WeightsError(f"{where} is a symbolic link; only data stored in place is read")
    member = group[key]
    if isinstance(member, h5py.Dataset):
        _check_storage(where, member.id.get_create_plist())
    return member


def _check_storage(where: str, properties: h5py.h5p.PropDCID) -> None:
    if properties.get_external_count() or properties.get_layout() == h5py.h5d.VIRTUAL:
        raise WeightsError(f"{where} keeps its values in other files; these are not read")
    filters = _filters(properties)
    if (filters[:-1] if filters[-1:] == (FLETCHER32,) else filters) not in FILTERS:
        codes = ", ".join(map(str, filters))
        raise WeightsError(f"{where} is packed with HDF5 filters {codes}; repack it (h5repack -f NONE)")


def _filters(properties: h5py.h5p.PropDCID) -> tuple[int, ...]:
    return tuple(properties.get_filter(i)[0] for i in range(properties.get_nfilters()))


def read(path: str, buffer: mmap.mmap) -> Weights:
    """Index a .caffemodel.h5. Data sets stored in one piece become views of `buffer`, others are read on demand."""
    file = open_file(path)
    try:
        with explained(path):
            if not has(file, "data") or not isinstance(data := child(path, file, "data"), h5py.Group):
                raise WeightsError(f"{path}: holds no group 'data'; not weights as Caffe writes them")
            blobs = _Walk(path, buffer).layers(data)
            check_unpacked(path, [blob for layer in blobs.values() for blob in layer if blob], buffer)
    except BaseException:
        file.close()
        raise
    return Weights(path, blobs, is_hdf5=True, close=file.close)


class _Walk:
    """Finds the layers below /data: a group whose members are numbered data sets, or that is empty.

    A layer name with slashes is a path of groups.
    """

    def __init__(self, path: str, buffer: mmap.mmap):
        self._path, self._buffer = path, buffer
        self._found: dict[str, list[StoredBlob | None]] = {}
        self._seen: set[int] = set()
        self._links = 0

    def layers(self, data: h5py.Group) -> dict[str, list[StoredBlob | None]]:
        self._visit(data, ())
        return self._found

    def _visit(self, group: h5py.Group, names: tuple[str, ...]) -> None:
        address = h5py.h5o.get_info(group.id).addr
        if address in self._seen or len(names) > MAX_DEPTH:
            raise WeightsError(f"{self._path}: {group.name} is linked twice or nested more than {MAX_DEPTH} deep")
        self._seen.add(address)
        arrays: dict[int, StoredBlob] = {}
        groups = 0
        for key in group:
            self._links += 1
            if self._links > MAX_LINKS:
                raise WeightsError(f"{self._path}: the file holds more than {MAX_LINKS} groups and data sets")
            member = child(self._path, group, key)
            if isinstance(member, h5py.Group):
                groups += 1
                self._visit(member, (*names, key))
            elif isinstance(member, h5py.Dataset):
                arrays[self._index(member, key, names)] = stored_blob(self._path, member, self._buffer)
        if names and (arrays or not groups):
            last = max(arrays, default=-1)
            self._found["/".join(names)] = [arrays.get(i) for i in range(last + 1)]

    def _index(self, member: h5py.Dataset, key: str, names: tuple[str, ...]) -> int:
        if not names or not (key.isdecimal() and key.isascii()) or str(int(key[:6])) != key or int(key) >= MAX_BLOBS:
            raise WeightsError(f"{self._path}: {member.name} is no layer's blob; weights are /data/LAYER/NUMBER")
        return int(key)


def stored_blob(path: str, data: h5py.Dataset, buffer: mmap.mmap) -> StoredBlob:
    """A numeric data set from `child`, its size checked against what is stored. Raises WeightsError for any other."""
    where = f"{path}: {data.name}"
    kind = data.id.get_type()
    if not isinstance(kind, (h5py.h5t.TypeFloatID, h5py.h5t.TypeIntegerID)) or data.shape is None:
        raise WeightsError(f"{where} holds no numbers")
    shape = tuple(int(dim) for dim in data.shape)
    if problem := shape_problem(shape):
        raise WeightsError(f"{where}: {problem}")
    size, stored = data.size * kind.get_size(), data.id.get_storage_size()
    packed = bool(_filters(data.id.get_create_plist()))
    if stored > len(buffer) or (size > stored and not packed):
        raise WeightsError(f"{where} has shape {shape}, {size} bytes, but {min(stored, len(buffer))} are stored")
    offset = data.id.get_offset()
    if offset is None or not h5py.h5t.py_create(data.dtype).equal(kind):
        chunk = math.prod(data.chunks or ()) * kind.get_size()
        return StoredBlob(shape, partial(_fetch, path, data, buffer), unpacked=max(size, chunk))
    if offset + size > len(buffer):
        raise WeightsError(f"{where}: truncated: its {size} bytes go on beyond the end of the file")
    return StoredBlob(shape, partial(_view, shape, data.dtype, buffer, offset))


def check_unpacked(path: str, blobs: Sequence[StoredBlob], buffer: mmap.mmap) -> None:
    """Raise WeightsError for blobs that take far more memory than their file: it can name one data set many times."""
    size = sum(blob.unpacked for blob in blobs)
    if size > MAX_EXPANSION * len(buffer) + MAX_UNPACKED:
        raise WeightsError(
            f"{path}: its {len(buffer)} bytes would unpack to {size}; if it is to be trusted, repack it "
            "(h5repack -f NONE)"
        )


def _view(shape: Shape, dtype: np.dtype, buffer: mmap.mmap, offset: int) -> np.ndarray:
    return np.ndarray(shape, dtype, buffer, offset)


def _fetch(path: str, data: h5py.Dataset, buffer: mmap.mmap) -> np.ndarray:
    if not data:
        raise WeightsError("the file is closed")
    with explained(path):
        if DEFLATE in _filters(data.id.get_create_plist()):
            _check_deflated(data, buffer)
        array = np.asarray(data[()])
    array.flags.writeable = False
    return array


def _check_deflated(data: h5py.Dataset, buffer: mmap.mmap) -> None:
    """Raise WeightsError for a chunk that inflates to more than a chunk, which HDF5 would do without a limit."""
    position = _filters(data.id.get_create_plist()).index(DEFLATE)
    room = math.prod(data.chunks) * data.id.get_type().get_size()
    chunks: list[Any] = []
    data.id.chunk_iter(chunks.append)
    for chunk in chunks:
        if not chunk.filter_mask >> position & 1:
            packed = buffer[chunk.byte_offset : chunk.byte_offset + chunk.size]
            try:
                unpacked = zlib.decompressobj().decompress(packed, room + 1)
            except zlib.error as error:
                raise WeightsError(f"a chunk cannot be unpacked: {error}") from error
            if len(unpacked) > room:
                raise WeightsError(f"a chunk of {room} bytes unpacks to more")


# -- writing -------------------------------------------------------------------------------------------------


def write_hdf5(
    path: str | Path,
    layers: Mapping[str, Sequence[Any]],
    owners: Owners | None = None,
    diffs: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Write weights as Caffe's Net::ToHDF5: one group for each layer, blobs or not, shared parameters with their owner.

    Args:
        path: the file; replaced in one step at the end.
        layers: layer name to its arrays or tensors, in net order. float64 stays, everything else becomes float32.
        owners: `owners[layer][i]` is (layer, index) of the parameter that blob i shares, itself if it shares none.
            By default a tensor object seen before is shared.
        diffs: gradients to write under /diff, those of shared parameters with every layer, as Caffe does.

    Raises:
        WeightsError: the file cannot be written, or HDF5 cannot hold the layers' names side by side.
    """
    with replacing(path) as temporary, h5py.File(temporary, "w", libver="earliest") as file:
        data = file.create_group("data")
        first: dict[int, tuple[torch.Tensor, tuple[str, int]]] = {}
        for layer, blobs in layers.items():
            if not all(part not in ("", ".") for part in layer.split("/")):
                raise WeightsError(f"{path}: HDF5 cannot hold a layer named '{layer}'; rename it or save a .caffemodel")
            try:
                group = data.require_group(layer)
                for i, blob in enumerate(blobs):
                    place = owners[layer][i] if owners and layer in owners else (layer, i)
                    if owners is None and isinstance(blob, torch.Tensor):
                        _, place = first.setdefault(id(blob), (blob, place))
                    if place == (layer, i):
                        group.create_dataset(str(i), data=to_array(blob))
                for i, gradient in enumerate((diffs or {}).get(layer, ())):
                    file.require_group(f"diff/{layer}").create_dataset(str(i), data=to_array(gradient))
            except (TypeError, ValueError) as error:
                raise WeightsError(
                    f"{path}: layer '{layer}' would have the name of another layer's blob in HDF5 ({error}); rename it "
                    "or save a .caffemodel"
                ) from error


# -- scalars of solver states --------------------------------------------------------------------------------


def read_int(path: str, group: h5py.Group, key: str) -> int:
    """A data set of one integer."""
    data = child(path, group, key)
    if (
        not isinstance(data, h5py.Dataset)
        or data.size != 1
        or not isinstance(data.id.get_type(), h5py.h5t.TypeIntegerID)
    ):
        raise WeightsError(f"{path}: '{key}' is not one integer")
    return int(np.asarray(data[()]).reshape(-1)[0])


def read_text(path: str, group: h5py.Group, key: str) -> str:
    """A data set of one string."""
    data = child(path, group, key)
    kind = data.id.get_type() if isinstance(data, h5py.Dataset) else None
    if not isinstance(kind, h5py.h5t.TypeStringID) or data.size != 1 or kind.get_size() > MAX_TEXT:
        raise WeightsError(f"{path}: '{key}' is not one string")
    text = data[()]
    text = text if isinstance(text, bytes) else np.asarray(text, dtype=object).reshape(-1)[0]
    return bytes(text).split(b"\0")[0].decode("utf-8", "surrogateescape")


def write_text(group: h5py.Group, key: str, text: str) -> None:
    """A scalar string with its terminating zero, which Caffe relies on."""
    content = text.encode("utf-8", "surrogateescape") + b"\0"
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(content))
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    data = h5py.h5d.create(group.id, key.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR))
    data.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(content, dtype=f"S{len(content)}"), mtype=kind)
