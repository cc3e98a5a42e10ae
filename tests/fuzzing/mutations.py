"""Mutations of binary and text files; the same seed always gives the same bytes."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Sequence

from caffe_bridge.weights import wire

MAX_GROWTH = 1 << 16
EXTREMES = (0, 1, 2, 127, 128, 255, 1 << 15, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
NUMBERS = ("0", "-1", "1e18", "1000000000000000000", "2147483647", "2147483648", "-2147483648", "99999", "0x7fffffff")
WORDS = (
    *("{", "}", "<", ">", "[", "]", ":", ",", ";", '"', "'", "#", "\\", "\0", "layer {", "layers {", "dim: "),
    *(
        *NUMBERS,
        "nan",
        "inf",
        "-inf",
        "1e-400",
        "true",
        "TEST",
        '"data"',
        '"\\xff"',
        "\u0663",
        "\udced\udca0\udc80",
        "0777777777777",
    ),
)
Mutation = Callable[[bytearray, random.Random, Sequence[bytes]], None]


def _position(data: bytearray, rng: random.Random) -> int:
    """Anywhere, but as often near the beginning, where most formats keep their structure."""
    return rng.randrange(len(data) if rng.random() < 0.5 else min(len(data), 2000))


def _length(rng: random.Random, limit: int) -> int:
    return min(limit, int(rng.paretovariate(0.7)))


def flip_bit(data: bytearray, rng: random.Random, samples: Sequence[bytes]) -> None:
    data[_position(data, rng)] ^= 1 << rng.randrange(8)


def set_byte(data: bytearray, rng: random.Random, samples: Sequence[bytes]) -> None:
    data[_position(data, rng)] = rng.choice((0, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def set_number(data: bytearray, rng: random.Random, samples: Sequence[bytes]) -> None:
    """A fixed-width number of 2, 4 or 8 bytes, at an aligned place (sizes and addresses in HDF5, zip, safetensors)."""
    size = rng.choice((2, 4, 8, 8))
    at = _position(data, rng) // size * size
    old = int.from_bytes(data[at : at + size], "little")
    value = rng.choice((*EXTREMES, len(data), old + 1, old - 1, 2 * old, old // 2, rng.randrange(len(data))))
    data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")


def set_length(data: bytearray, rng: random.Random, samples: Sequence[bytes]) -> None:
    """The length of a protobuf field, at any depth."""
    places = _length_places(bytes(data))
    if not places:
        return set_number(data, rng, samples)
    first, end = rng.choice(places)
    old, _ = wire.varint(bytes(data), first, end)
    value = rng.choice((*EXTREMES, old + 1, old - 1, 2 * old, old // 2, rng.randrange(2 * len(data))))
    data[first:end] = wire.encode_varint(value)


def _length_places(data: bytes, most: int = 400) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    messages = [(0, len(data))]
    while messages and len(found) < most:
        start, end = messages.pop()
        try:
            fields = list(wire.fields(data, start, end))
        except wire.WireError:
            continue
        for field in fields:
            if field.wire == wire.BYTES:
                _, tag_end = wire.varint(data, field.start, field.first)
                found.append((tag_end, field.first))
                messages.append((field.first, field.end))
    return found


def insert(data: bytearray, rng: random.Random, samples: Sequence[bytes]) -> None:
    at = _position(data, rng)
    data[at:at] = rng.randbytes(_length(rng, 64)) if rng.random() < 0.5 else bytes(_length(rng, 64))


def delete(data: bytearray, rng: random.Random, samples: Sequence[bytes]) -> None:
    at = _position(data, rng)
    del data[at : at + _length(rng, len(data) - 1)]


def duplicate(data: bytearray, rng: random.Random, samples: Sequence[bytes]) -> None:
    """A block once or many times more, there or elsewhere."""
    at, length = _position(data, rng), _length(rng, 4096)
    block = bytes(data[at : at + length]) * rng.choice((1, 1, 2, 100))
    to = at if rng.random() < 0.7 else _position(data, rng)
    data[to:to] = block[:MAX_GROWTH]


def swap(data: bytearray, rng: random.Random, samples: Sequence[bytes]) -> None:
    """A block overwritten with another of the same file."""
    length = _length(rng, 512)
    at, to = _position(data, rng), _position(data, rng)
    block = bytes(data[at : at + length])
    data[to : to + len(block)] = block


def splice(data: bytearray, rng: random.Random, samples: Sequence[bytes]) -> None:
    """The beginning of this file and the end of another of its kind."""
    other = rng.choice(samples)
    at = _position(data, rng)
    start = at if rng.random() < 0.5 and at < len(other) else rng.randrange(len(other))
    data[at:] = other[start:]


BINARY: tuple[Mutation, ...] = (flip_bit, set_byte, set_number, set_length, insert, delete, duplicate, swap, splice)

_TOKEN = re.compile(r"[A-Za-z_]\w*|-?[0-9][\w.+-]*|\"[^\"\n]*\"|\S")
_DIGITS = re.compile(r"(?<=[: ])-?[0-9][\w.+-]*")


def _text_edit(change: Callable[[str, random.Random], str]) -> Mutation:
    def mutation(data: bytearray, rng: random.Random, samples: Sequence[bytes]) -> None:
        text = bytes(data).decode("utf-8", "surrogateescape")
        data[:] = change(text, rng).encode("utf-8", "surrogateescape")

    return mutation


@_text_edit
def replace_number(text: str, rng: random.Random) -> str:
    places = list(_DIGITS.finditer(text))
    if not places:
        return text
    place = rng.choice(places)
    return text[: place.start()] + rng.choice(NUMBERS) + text[place.end() :]


@_text_edit
def replace_token(text: str, rng: random.Random) -> str:
    places = list(_TOKEN.finditer(text))
    if not places:
        return text
    place = rng.choice(places)
    new = rng.choice(WORDS) if rng.random() < 0.5 else rng.choice(places)[0]
    return text[: place.start()] + new + text[place.end() :]


@_text_edit
def insert_token(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(WORDS) * rng.choice((1, 1, 1, 200)) + text[at:]


@_text_edit
def move_line(text: str, rng: random.Random) -> str:
    """A line deleted, repeated or moved."""
    lines = text.splitlines(keepends=True)
    if not lines:
        return text
    line = lines[rng.randrange(len(lines))] if rng.random() < 0.5 else lines.pop(rng.randrange(len(lines)))
    if rng.random() < 0.7:
        times = rng.choice((1, 1, 1, 50))
        lines.insert(rng.randrange(len(lines) + 1), line * (times if len(line) * times <= MAX_GROWTH else 1))
    return "".join(lines)


TEXT: tuple[Mutation, ...] = (
    *(replace_number,) * 8,
    *(replace_token, insert_token, move_line, move_line),
    *(flip_bit, set_byte, insert, delete, duplicate, splice),
)


def mutated(samples: Sequence[bytes], kinds: Sequence[Mutation], seed: str) -> bytes:
    """One of the samples with one to a few mutations."""
    rng = random.Random(seed)
    data = bytearray(rng.choice(samples))
    for _ in range(rng.choice((1, 1, 1, 2, 4, 12))):
        rng.choice(kinds)(data, rng, samples)
        if not data:
            data[:] = struct.pack("<B", rng.randrange(256))
    return bytes(data)
