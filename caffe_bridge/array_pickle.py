"""Reads pickled lists of NumPy arrays of numbers, or of dictionaries of them, without running what a pickle asks for.

Any Python and NumPy may have written them. The few functions that such a pickle names are answered by ones of our own
that check sizes against the data at hand.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from caffe_bridge.errors import CaffeError


class _Dtype:
    """What numpy.dtype makes, and the state that sets its byte order."""

    def __init__(self, code: str, *_: Any):
        if not isinstance(code, str) or not re.fullmatch("[buif][1248]", code):
            raise ValueError(f"arrays of type {code!r} are no numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(">" if state[1] == ">" else "<")


class _Array:
    """What numpy.core.multiarray._reconstruct makes, and the state that fills it."""

    values = np.empty(0)

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, columns_first, data = state
        self.values = _from_buffer(data, dtype, shape, "F" if columns_first else "C").values


def _from_buffer(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: str, *_: Any) -> _Array:
    data = data.encode("latin1") if isinstance(data, str) else bytes(data) if not isinstance(data, int) else b""
    if any(side < 0 for side in shape) or math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} has {len(data)} bytes")
    made = _Array()
    made.values = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")
    return made


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise ValueError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
}
for _module in ("numpy.core", "numpy._core"):
    _KNOWN[f"{_module}.multiarray", "_reconstruct"] = _Array
    _KNOWN[f"{_module}.numeric", "_frombuffer"] = _from_buffer


class _Ignored:
    """A sparse matrix, which is read over."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


for _module in ("scipy.sparse.csr", "scipy.sparse._csr"):
    _KNOWN[_module, "csr_matrix"] = _Ignored


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _KNOWN[module, name]


def load(path: str) -> list[np.ndarray]:
    """The arrays in a file.

    Raises:
        CaffeError: the file cannot be read, or holds something else.
    """
    value = _read(path)
    if not isinstance(value, list) or not all(isinstance(entry, _Array) for entry in value):
        raise CaffeError(f"{path}: holds no list of arrays")
    return [entry.values for entry in value]


def load_entries(path: str) -> list[dict[str, Any]]:
    """The dictionaries in a file, with their arrays and lists of arrays; sparse matrices in them are left out.

    Raises:
        CaffeError: the file cannot be read, or holds something else.
    """
    value = _read(path)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise CaffeError(f"{path}: holds no list of dictionaries")
    return [{key: _plain(part) for key, part in entry.items() if not isinstance(part, _Ignored)} for entry in value]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [part.values if isinstance(part, _Array) else part for part in value]
    return value.values if isinstance(value, _Array) else value


def _read(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            return _Unpickler(io.BytesIO(file.read()), encoding="latin1").load()
    except OSError as error:
        raise CaffeError(f"{path}: {error.strerror}") from error
    except Exception as error:  # the reader raises whatever it stumbles over in a damaged file
        raise CaffeError(f"{path}: is no pickled list of arrays: {error}") from error
