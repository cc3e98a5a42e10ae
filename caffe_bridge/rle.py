"""COCO's run-length encoding of masks, as its annotation and result files hold it.

Pixels are taken column by column; `counts` are the lengths of runs of equal pixels, starting with a run of zeros that
may be empty. The compressed form writes each count (from the fourth on its difference to the count two before) in
groups of five bits, lowest first, as characters from code 48; bit 5 of a character says that more follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from caffe_bridge.errors import CaffeError


def encode(mask: np.ndarray) -> dict[str, Any]:
    """{"size": [height, width], "counts": compressed string} of a mask [height, width], zero or not."""
    return {"size": [int(side) for side in mask.shape], "counts": compress(count_runs(mask))}


def decode(encoded: dict[str, Any]) -> np.ndarray:
    """The mask, bool [height, width], of an encoding whose counts are a string or a list.

    Raises CaffeError when the counts are malformed or do not add up to the size.
    """
    height, width = (int(side) for side in encoded["size"])
    counts = encoded["counts"]
    runs = np.asarray(decompress(counts) if isinstance(counts, str) else counts, np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise CaffeError(f"the runs of a mask of {height} x {width} pixels add up to {runs.sum()}")
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return pixels.reshape(width, height).T


def count_runs(mask: np.ndarray) -> list[int]:
    """The lengths of the runs of zeros and ones of a mask [height, width], in turn, zeros first."""
    pixels = np.asarray(mask, bool).T.ravel()
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges = np.concatenate([[0], changes, [len(pixels)]])
    counts = np.diff(edges).tolist()
    return [0, *counts] if len(pixels) and pixels[0] else counts


def compress(counts: Sequence[int]) -> str:
    """The compressed form of a list of counts."""
    characters = []
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            bits = value & 31
            value >>= 5  # arithmetic: a negative difference ends in -1
            more = value != (-1 if bits & 16 else 0)
            characters.append(chr(48 + (bits | 32 if more else bits)))
    return "".join(characters)


def decompress(text: str) -> list[int]:
    """The counts in a compressed string; raises CaffeError when it is malformed."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise CaffeError(f"not a compressed mask: {text[:20]!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise CaffeError(f"a compressed mask ends within a count: {text[-20:]!r}")
    return counts
