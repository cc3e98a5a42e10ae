"""The protobuf wire format, read in place: where the fields of a message lie, without copying their contents.

Positions are byte offsets into a buffer (bytes or an mmap); nothing is decoded that the caller does not ask for, so a
file of any size is walked in the time its fields (not its floats) take.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

Buffer = bytes | mmap.mmap

VARINT, FIXED64, BYTES, START_GROUP, END_GROUP, FIXED32 = range(6)
FIXED_SIZE = {FIXED32: 4, FIXED64: 8}
MAX_GROUP_DEPTH = 100
_FIRST_BLOCK, _LAST_BLOCK = 64, 1 << 20


class WireError(ValueError):
    """The bytes at `offset` are not a protobuf message."""

    def __init__(self, message: str, offset: int):
        super().__init__(message)
        self.offset = offset


class CutOffError(WireError):
    """A field or number goes on beyond its message; `first` is where the contents of the unfinished field begin."""

    def __init__(self, message: str, offset: int, number: int = 0, first: int = 0):
        super().__init__(message, offset)
        self.number, self.first = number, first


class Field(NamedTuple):
    """One field: its tag begins at `start`, its value fills [`first`, `end`).

    Fixed-width fields of the same number that follow one another directly (floats of a repeated field that is not
    packed) come as one Field: values lie `FIXED_SIZE[wire] + 1` bytes apart from `first` on.
    """

    number: int
    wire: int
    start: int
    first: int
    end: int


def varint(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """The unsigned 64-bit number at `position`, and the position behind it."""
    value = shift = 0
    while position < end:
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
        if shift >= 70:
            raise WireError("a number is longer than ten bytes", position)
    raise CutOffError("a number is cut off", end)


def signed(value: int) -> int:
    """The int32 or int64 that a varint stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value


def fields(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """The fields of the message that fills [start, end), in file order; groups are stepped over whole.

    Raises WireError where the bytes are no message, CutOffError where a field goes on beyond `end`.
    """
    position = start
    while position < end:
        tag, first = varint(buffer, position, end)
        number, wire = _split_tag(tag, position)
        if wire == BYTES:
            length, first = varint(buffer, first, end)
            stop = first + length
        elif wire == VARINT:
            _, stop = varint(buffer, first, end)
        elif wire == START_GROUP:
            stop = _group_end(buffer, first, end, number)
        elif wire == END_GROUP:
            raise WireError("a group ends that never began", position)
        elif first - position == 1:
            stop = _run_end(buffer, position, end, FIXED_SIZE[wire])
        else:
            stop = first + FIXED_SIZE[wire]
        if stop > end:
            raise CutOffError(f"field {number} goes on for {stop - end} bytes beyond it", position, number, first)
        yield Field(number, wire, position, first, stop)
        position = stop


def varints(buffer: Buffer, field: Field) -> Iterator[int]:
    """The unsigned numbers of a repeated varint field, packed or not."""
    position = field.first
    while position < field.end:
        value, position = varint(buffer, position, field.end)
        yield value


def _split_tag(tag: int, position: int) -> tuple[int, int]:
    number, wire = tag >> 3, tag & 7
    if not 0 < number < 1 << 29 or wire > FIXED32:
        raise WireError(f"no protobuf field begins with the tag {tag:#x}", position)
    return number, wire


def _group_end(buffer: Buffer, position: int, end: int, number: int) -> int:
    open_groups = [number]
    while open_groups:
        tag, first = varint(buffer, position, end)
        number, wire = _split_tag(tag, position)
        if wire == START_GROUP:
            open_groups.append(number)
            if len(open_groups) > MAX_GROUP_DEPTH:
                raise WireError(f"groups are nested more than {MAX_GROUP_DEPTH} deep", position)
        elif wire == END_GROUP:
            if open_groups.pop() != number:
                raise WireError(f"group {number} ends inside another", position)
        elif wire == BYTES:
            length, first = varint(buffer, first, end)
            first += length
        elif wire == VARINT:
            _, first = varint(buffer, first, end)
        else:
            first += FIXED_SIZE[wire]
        position = first
    return position


def _run_end(buffer: Buffer, start: int, end: int, size: int) -> int:
    """Where the run of fields with the one-byte tag at `start` ends; may lie beyond `end` when the last is cut off."""
    tag, stride = buffer[start], size + 1
    stop, block = start + stride, _FIRST_BLOCK
    while stop < end and buffer[stop] == tag:
        tags = np.frombuffer(buffer, np.uint8, min(end - stop, block * stride), stop)[::stride]
        others = np.flatnonzero(tags != tag)
        if others.size:
            return stop + int(others[0]) * stride
        stop += len(tags) * stride
        block = min(2 * block, _LAST_BLOCK)
    return stop


# -- writing -------------------------------------------------------------------------------------------------


def encode_varint(value: int) -> bytes:
    """A number of at most 64 bits, negative ones as protobuf's int32 and int64 write them."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_tag(number: int, wire: int) -> bytes:
    """The tag of a field."""
    return encode_varint(number << 3 | wire)


def encode_int(number: int, value: int) -> bytes:
    """An int32, int64 or enum field."""
    return encode_tag(number, VARINT) + encode_varint(value)


def encode_prefix(number: int, length: int) -> bytes:
    """What precedes the `length` bytes of a string, bytes, message or packed field."""
    return encode_tag(number, BYTES) + encode_varint(length)


def encode_bytes(number: int, value: bytes) -> bytes:
    """A string, bytes or message field."""
    return encode_prefix(number, len(value)) + value
