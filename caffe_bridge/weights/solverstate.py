"""Solver states: where training stands, in Caffe's binary and HDF5 formats."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from caffe_bridge.errors import WeightsError
from caffe_bridge.weights import blobproto, hdf5, wire
from caffe_bridge.weights.contents import StoredBlob
from caffe_bridge.weights.files import is_hdf5, map_file, named_hdf5, replacing, to_array

ITER, LEARNED_NET, HISTORY, CURRENT_STEP = 1, 2, 3, 4
STREAMS = 1000  # not Caffe's: it skips the field
MAX_STREAMS = 1 << 26
MAX_HISTORY = 1 << 17
MAX_PATH = 1 << 16


@dataclass
class SolverState:
    """What a solver needs, beside the weights, to go on.

    Attributes:
        iter: iterations done.
        learned_net: the weights file written with the state, or None.
        current_step: steps of the learning rate policy taken.
        history: the solver's buffers, one for each learnable parameter (twice as many for AdaDelta and Adam).
        streams: the positions of random streams and data layers; empty in Caffe's own files.
    """

    iter: int = 0
    learned_net: str | None = None
    current_step: int = 0
    history: Sequence[Any] = field(default_factory=list)
    streams: bytes = b""


def read_solverstate(path: str | Path) -> SolverState:
    """Read a .solverstate or .solverstate.h5, told apart by content; history arrays are read-only views where possible.

    Raises WeightsError when the file cannot be read or is no solver state.
    """
    path = str(path)
    buffer = map_file(path)
    return _read_hdf5(path, buffer) if is_hdf5(buffer) else _read_binary(path, buffer)


def write_solverstate(path: str | Path, state: SolverState, *, hdf5: bool | None = None) -> None:
    """Write a solver state as Caffe does: as HDF5 or binary, by default HDF5 if the name ends in .h5.

    Raises WeightsError when it cannot be written, or when a binary file would exceed protobuf's 2 GB.
    """
    if named_hdf5(path) if hdf5 is None else hdf5:
        _write_hdf5(path, state)
    else:
        _write_binary(path, state)


def _read_binary(path: str, buffer: mmap.mmap) -> SolverState:
    state = SolverState()
    history: list[StoredBlob] = []
    try:
        for item in wire.fields(buffer, 0, len(buffer)):
            if item.number in (ITER, CURRENT_STEP) and item.wire == wire.VARINT:
                value = wire.signed(wire.varint(buffer, item.first, item.end)[0])
                if not 0 <= value < 1 << 31:
                    raise wire.WireError(f"{value} is no iteration or step", item.start)
                if item.number == ITER:
                    state.iter = value
                else:
                    state.current_step = value
            elif item.number == LEARNED_NET and item.wire == wire.BYTES:
                if item.end - item.first > MAX_PATH:
                    raise wire.WireError(f"a file name is {item.end - item.first} bytes long", item.start)
                state.learned_net = buffer[item.first : item.end].decode("utf-8", "surrogateescape")
            elif item.number == STREAMS and item.wire == wire.BYTES:
                if item.end - item.first > MAX_STREAMS:
                    raise wire.WireError(f"the random streams are {item.end - item.first} bytes long", item.start)
                state.streams = buffer[item.first : item.end]
            elif item.number == HISTORY and item.wire == wire.BYTES:
                history.append(blobproto.parse(buffer, item.first, item.end))
                if len(history) > MAX_HISTORY:
                    raise wire.WireError(f"the history has more than {MAX_HISTORY} blobs", item.start)
    except wire.CutOffError as error:
        raise WeightsError(f"{path}: truncated at byte {len(buffer)}, or not a solver state: {error}") from error
    except wire.WireError as error:
        raise WeightsError(f"{path}: not a solver state: {error} at byte {error.offset}") from error
    state.history = _arrays(path, history)
    return state


def _read_hdf5(path: str, buffer: mmap.mmap) -> SolverState:
    with hdf5.explained(path), hdf5.open_file(path) as file:
        for key in ("iter", "current_step", "history"):
            if not hdf5.has(file, key):
                raise WeightsError(f"{path}: holds no '{key}'; not a solver state")
        group = hdf5.child(path, file, "history")
        if not isinstance(group, h5py.Group) or len(group) > MAX_HISTORY:
            raise WeightsError(f"{path}: 'history' is not a group of blobs")
        missing = next((i for i in range(len(group)) if not hdf5.has(group, str(i))), None)
        if missing is not None:
            raise WeightsError(f"{path}: the history of {len(group)} blobs has no blob {missing}")
        members = [hdf5.child(path, group, str(i)) for i in range(len(group))]
        if not all(isinstance(member, h5py.Dataset) for member in members):
            raise WeightsError(f"{path}: 'history' is not a group of blobs")
        blobs = [hdf5.stored_blob(path, member, buffer) for member in members]
        hdf5.check_unpacked(path, blobs, buffer)
        return SolverState(
            iter=hdf5.read_int(path, file, "iter"),
            learned_net=hdf5.read_text(path, file, "learned_net") if hdf5.has(file, "learned_net") else None,
            current_step=hdf5.read_int(path, file, "current_step"),
            history=_arrays(path, blobs),
            streams=_hdf5_streams(path, file, buffer),
        )


def _hdf5_streams(path: str, file: h5py.File, buffer: mmap.mmap) -> bytes:
    if not hdf5.has(file, "streams"):
        return b""
    member = hdf5.child(path, file, "streams")
    if not isinstance(member, h5py.Dataset) or member.dtype != np.uint8 or member.size > MAX_STREAMS:
        raise WeightsError(f"{path}: 'streams' is not a string of bytes")
    return hdf5.stored_blob(path, member, buffer).array().tobytes()


def _arrays(path: str, history: list[StoredBlob]) -> list[np.ndarray]:
    arrays = []
    for i, blob in enumerate(history):
        try:
            arrays.append(blob.array())
        except WeightsError as error:
            raise WeightsError(f"{path}: history blob {i}: {error}") from error
    return arrays


def _write_binary(path: str | Path, state: SolverState) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(wire.encode_int(ITER, state.iter))
        if state.learned_net is not None:
            file.write(wire.encode_bytes(LEARNED_NET, state.learned_net.encode("utf-8", "surrogateescape")))
        for blob in state.history:
            array = to_array(blob)
            if file.tell() + blobproto.message_size(HISTORY, array) + 16 > blobproto.MAX_MESSAGE:
                raise WeightsError(
                    f"{path}: the state takes more than the 2 GB Caffe can read; use snapshot_format: HDF5"
                )
            blobproto.write_message(file.write, HISTORY, array)
        file.write(wire.encode_int(CURRENT_STEP, state.current_step))
        if state.streams:
            file.write(wire.encode_bytes(STREAMS, state.streams))


def _write_hdf5(path: str | Path, state: SolverState) -> None:
    with replacing(path) as temporary, h5py.File(temporary, "w", libver="earliest") as file:
        file.create_dataset("iter", data=np.array([state.iter], dtype="<i4"))
        if state.learned_net is not None:
            hdf5.write_text(file, "learned_net", state.learned_net)
        file.create_dataset("current_step", data=np.array([state.current_step], dtype="<i4"))
        history = file.create_group("history")
        for i, blob in enumerate(state.history):
            history.create_dataset(str(i), data=to_array(blob))
        if state.streams:
            file.create_dataset("streams", data=np.frombuffer(state.streams, np.uint8))
