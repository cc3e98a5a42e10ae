"""The text files that data layers read: lists of images with labels, lists of files, window files."""

from __future__ import annotations

import os
import re
import stat

from caffe_bridge.errors import LayerError

_INTEGER = re.compile(r"\s*([+-]?\d{1,10})(?!\d)")
_INT_LIMIT = 1 << 31


def read_text(path: str) -> str:
    """The contents of a text file; bytes that are no UTF-8 survive in file names.

    Raises LayerError when the file cannot be read or is no regular file.
    """
    if not path:
        raise LayerError("source is not given")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise LayerError(f"source {path}: is not a regular file")
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise LayerError(f"source {path}: {getattr(error, 'strerror', None) or error}") from error


def read_image_list(path: str) -> list[tuple[str, int]]:
    """The (file name, label) pairs of a list, one a line: the last space parts them, so names may hold spaces.

    A label is read as C's atoi does: the leading integer, else 0. Empty lines are passed over.

    Raises LayerError when the list cannot be read, has no line, or a label is beyond 32 bits.
    """
    pairs = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        line = line.removesuffix("\r")
        if line:
            name, space, label = line.rpartition(" ")
            pairs.append((name if space else line, _label(label, f"source {path}, line {number}")))
    if not pairs:
        raise LayerError(f"source {path}: the list is empty")
    return pairs


def _label(text: str, where: str) -> int:
    found = _INTEGER.match(text)
    if found is None and not re.match(r"\s*[+-]?\d", text):
        return 0
    value = int(found[1]) if found else _INT_LIMIT
    if not -_INT_LIMIT <= value < _INT_LIMIT:
        raise LayerError(f"{where}: label {text[:20]} does not fit in 32 bits")
    return value
