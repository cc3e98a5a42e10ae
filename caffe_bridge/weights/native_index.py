"""The compiled walk over a .caffemodel (csrc/caffemodel_index.cpp), which answers for files that are in order."""

from __future__ import annotations

import ctypes
import functools
import mmap
from typing import NamedTuple

import numpy as np

from caffe_bridge import native

V0 = 1
MAX_LAYERS = 1 << 13
MAX_BLOBS = 1 << 14
MAX_DIMS = 1 << 16


class _Tables(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("layers", "blobs", "dims")),
        *((name, ctypes.c_int64) for name in ("max_layers", "max_blobs", "max_dims")),
        *((name, ctypes.c_int64) for name in ("layer_count", "blob_count", "dim_count", "name_first", "name_end")),
    ]


class Places(NamedTuple):
    """Where everything lies in a .caffemodel, in file order; ranges are (first byte, end).

    Attributes:
        name: the range of the net's name.
        layers: (field number, name's first, its end, type's first, its end, blobs up to here) of each layer message.
            The number is V0 for a V0 layer, which follows the V1 layer it lies in; a V1 layer's type is (number, -1).
        blobs: (legacy, first, count, stride, size, dims up to here) of each blob, whose `count` values of `size` bytes
            lie `stride` bytes apart from `first` on.
        dims: the shapes of all blobs.
    """

    name: tuple[int, int]
    layers: list[tuple[int, int, int, int, int, int]]
    blobs: list[tuple[int, int, int, int, int, int]]
    dims: list[int]


@functools.cache
def _indexer() -> ctypes._NamedFuncPointer | None:
    function = getattr(native.library(), "caffe_bridge_index_caffemodel", None)
    if function is None:
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.POINTER(_Tables)]
    function.restype = ctypes.c_int
    return function


def index(buffer: mmap.mmap) -> Places | None:
    """Where everything lies in a .caffemodel.

    None where the plain walk has to say it: the file has errors, or something that is rare (a blob in several pieces,
    NVCaffe's raw_data, many thousands of layers), or there are no native kernels.
    """
    function = _indexer()
    if function is None:
        return None
    contents = np.frombuffer(buffer, np.uint8)
    layers, blobs = np.empty((MAX_LAYERS, 6), np.int64), np.empty((MAX_BLOBS, 6), np.int64)
    dims = np.empty(MAX_DIMS, np.int64)
    tables = _Tables(layers.ctypes.data, blobs.ctypes.data, dims.ctypes.data, MAX_LAYERS, MAX_BLOBS, MAX_DIMS)
    if not function(contents.ctypes.data, len(contents), ctypes.byref(tables)):
        return None
    return Places(
        (tables.name_first, tables.name_end),
        layers[: tables.layer_count].tolist(),
        blobs[: tables.blob_count].tolist(),
        dims[: tables.dim_count].tolist(),
    )
