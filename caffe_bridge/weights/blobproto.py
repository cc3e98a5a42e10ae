"""BlobProto: one array as Caffe serialises it, in weights, solver states and mean files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from caffe_bridge.errors import WeightsError
from caffe_bridge.weights import wire
from caffe_bridge.weights.contents import MAX_AXES, StoredBlob, count_problem
from caffe_bridge.weights.files import map_file, replacing, to_array

NUM, CHANNELS, HEIGHT, WIDTH, DATA, DIFF, SHAPE, DOUBLE_DATA, DOUBLE_DIFF = 1, 2, 3, 4, 5, 6, 7, 8, 9
RAW_DATA_TYPE, RAW_DATA = 10, 12
RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2", 3: "<i4", 4: "<u4"}  # NVCaffe's Type
MAX_PIECES = 1 << 16
MAX_MESSAGE = 2**31 - 1

Span = tuple[int, int, int]  # first byte, number of values, bytes from one value to the next


def parse(buffer: wire.Buffer, start: int, end: int) -> StoredBlob:
    """The BlobProto that fills [start, end) of a buffer.

    Values are views of the buffer unless the file stores them in several pieces. A shape that does not fit the values
    becomes the blob's `problem`, since Caffe minds only when it uses the blob. Raises wire.WireError.
    """
    legacy: dict[int, int] = {}
    shape: list[int] = []
    spans: dict[int, list[Span]] = {DATA: [], DOUBLE_DATA: []}
    raw: tuple[int, int] | None = None
    raw_type = 0
    for field in wire.fields(buffer, start, end):
        if field.number in spans and field.wire != wire.VARINT:
            size = 4 if field.number == DATA else 8
            spans[field.number].append(_span(field, size))
            if len(spans[field.number]) > MAX_PIECES:
                raise wire.WireError(f"a blob lies in more than {MAX_PIECES} pieces", field.start)
        elif field.number in (NUM, CHANNELS, HEIGHT, WIDTH) and field.wire == wire.VARINT:
            legacy[field.number] = wire.signed(wire.varint(buffer, field.first, field.end)[0])
        elif field.number == SHAPE and field.wire == wire.BYTES:
            shape.extend(_dims(buffer, field))
            if len(shape) > MAX_AXES:
                raise wire.WireError(f"a blob has more than {MAX_AXES} axes", field.start)
        elif field.number == RAW_DATA_TYPE and field.wire == wire.VARINT:
            raw_type = wire.varint(buffer, field.first, field.end)[0]
        elif field.number == RAW_DATA and field.wire == wire.BYTES:
            raw = field.first, field.end
    dims = tuple(legacy.get(number, 0) for number in (NUM, CHANNELS, HEIGHT, WIDTH)) if legacy else tuple(shape)
    problem, dtype, pieces = None, "<f4", spans[DATA]
    if any(count for _, count, _ in spans[DOUBLE_DATA]):
        dtype, pieces = "<f8", spans[DOUBLE_DATA]
    elif raw is not None and not any(count for _, count, _ in pieces):
        problem, dtype, pieces = _raw(raw_type, *raw)
    return stored_blob(buffer, dims, pieces, dtype, bool(legacy), problem)


def stored_blob(
    buffer: wire.Buffer,
    dims: tuple[int, ...],
    pieces: Sequence[Span],
    dtype: str,
    legacy: bool,
    problem: str | None = None,
) -> StoredBlob:
    """The blob of a shape whose values lie in pieces of a buffer."""
    problem = problem or count_problem(dims, sum(count for _, count, _ in pieces))
    return StoredBlob(dims, partial(_gather, buffer, pieces, dtype, dims), legacy, problem)


def _span(field: wire.Field, size: int) -> Span:
    length = field.end - field.first
    if field.wire == wire.BYTES:
        if length % size:
            raise wire.WireError(f"{length} bytes are no whole number of {size}-byte values", field.start)
        return field.first, length // size, size
    if wire.FIXED_SIZE.get(field.wire) != size:
        raise wire.WireError(f"field {field.number} has the wrong wire type {field.wire}", field.start)
    return field.first, (length + 1) // (size + 1), size + 1


def _dims(buffer: wire.Buffer, message: wire.Field) -> Iterator[int]:
    for field in wire.fields(buffer, message.first, message.end):
        if field.number == 1 and field.wire in (wire.VARINT, wire.BYTES):
            for count, value in enumerate(wire.varints(buffer, field)):
                if count > MAX_AXES:
                    raise wire.WireError(f"a blob has more than {MAX_AXES} axes", field.start)
                yield wire.signed(value)


def _raw(raw_type: int, first: int, end: int) -> tuple[str | None, str, list[Span]]:
    if raw_type not in RAW_TYPES:
        return f"its raw_data is of the unknown type {raw_type}", "<f4", []
    dtype = RAW_TYPES[raw_type]
    size = np.dtype(dtype).itemsize
    if (end - first) % size:
        return f"its {end - first} bytes of raw_data are no whole number of {size}-byte values", dtype, []
    return None, dtype, [(first, (end - first) // size, size)]


def _gather(buffer: wire.Buffer, pieces: Sequence[Span], dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    views = [np.ndarray((count,), dtype, buffer, first, (stride,)) for first, count, stride in pieces if count]
    if len(views) == 1:
        return views[0].reshape(shape)
    flat = np.concatenate(views) if views else np.empty(0, dtype)
    flat.flags.writeable = False
    return flat.reshape(shape)


# -- writing -------------------------------------------------------------------------------------------------


def encode(array: np.ndarray, legacy: bool = False) -> tuple[bytes, bytes]:
    """What precedes and what follows the values of a float32 or float64 array in its BlobProto, as Caffe orders it.

    `legacy` writes the shape as num, channels, height and width (up to four axes).
    """
    shape = array.shape
    packed = b"".join(wire.encode_varint(dim) for dim in shape)
    modern = wire.encode_bytes(SHAPE, wire.encode_bytes(1, packed)) if shape and not legacy else b""
    before = b""
    if legacy:
        four = (1,) * (4 - len(shape)) + shape
        before = b"".join(wire.encode_int(number, dim) for number, dim in zip((NUM, CHANNELS, HEIGHT, WIDTH), four))
    values = DOUBLE_DATA if array.dtype == np.float64 else DATA
    prefix = wire.encode_prefix(values, array.nbytes) if array.size else b""
    return (before + modern + prefix, b"") if values == DOUBLE_DATA else (before + prefix, modern)


def _pieces(array: np.ndarray, diff: np.ndarray | None) -> list[Any]:
    """A BlobProto as buffers to write one after the other."""
    before, after = encode(array)
    pieces: list[Any] = [before, array.reshape(-1).view(np.uint8).data]
    if diff is not None and diff.size:
        number = DOUBLE_DIFF if array.dtype == np.float64 else DIFF
        values = diff.astype(array.dtype, copy=False)
        pieces += [wire.encode_prefix(number, values.nbytes), values.reshape(-1).view(np.uint8).data]
    return [piece for piece in (*pieces, after) if len(piece)]


def write_message(write: Callable[[Any], Any], number: int, array: np.ndarray, diff: np.ndarray | None = None) -> None:
    """Write an array, and the gradient that belongs to it, as the BlobProto field `number` of a message."""
    pieces = _pieces(array, diff)
    write(wire.encode_prefix(number, sum(map(len, pieces))))
    for piece in pieces:
        write(piece)


def message_size(number: int, array: np.ndarray, diff: np.ndarray | None = None) -> int:
    """Bytes that `write_message` writes."""
    size = sum(map(len, _pieces(array, diff)))
    return size + len(wire.encode_prefix(number, size))


def read_blobproto(path: str | Path) -> np.ndarray:
    """The array of a .binaryproto file, for example a mean image (1, channels, height, width).

    Raises WeightsError when the file cannot be read or is no BlobProto.
    """
    buffer = map_file(path)
    try:
        blob = parse(buffer, 0, len(buffer))
    except wire.CutOffError as error:
        raise WeightsError(f"{path}: the file is truncated: {error} at byte {error.offset}") from error
    except wire.WireError as error:
        raise WeightsError(f"{path}: not a BlobProto: {error} (at byte {error.offset})") from error
    try:
        return np.array(blob.array())
    except WeightsError as error:
        raise WeightsError(f"{path}: not a BlobProto: {error}") from error


def write_blobproto(path: str | Path, array: Any) -> None:
    """Write an array or tensor as a .binaryproto.

    Up to four axes are written as num, channels, height and width, which every Caffe reads.

    Raises WeightsError when it cannot be written, or is larger than the 2 GB that protobuf allows.
    """
    array = to_array(array)
    before, after = encode(array, legacy=array.ndim <= 4)
    if len(before) + array.nbytes + len(after) > MAX_MESSAGE:
        raise WeightsError(f"{path}: cannot be written: {array.nbytes} bytes are more than the 2 GB protobuf allows")
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(before)
        file.write(array.tobytes())
        file.write(after)
