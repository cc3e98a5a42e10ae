"""What a weights file holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from caffe_bridge.errors import WeightsError

MAX_AXES = 32
Shape = tuple[int, ...]


class StoredBlob:
    """One blob of a file: its shape is known, its values are fetched by `array`.

    Attributes:
        shape: as the file gives it; four numbers where `legacy`.
        legacy: the file gives num, channels, height and width, which compare with a shape of up to four axes counted
            from the last: (1, 1, 1, N) equals (N,).
        problem: why the values cannot be had, or None.
        unpacked: bytes of memory that `array` takes where the file does not hold the values as they are.
    """

    __slots__ = ("_fetch", "legacy", "problem", "shape", "unpacked")

    def __init__(
        self,
        shape: Shape,
        fetch: Callable[[], np.ndarray],
        legacy: bool = False,
        problem: str | None = None,
        unpacked: int = 0,
    ):
        self.shape, self.legacy, self.problem, self.unpacked = shape, legacy, problem, unpacked
        self._fetch = fetch

    def matches(self, shape: Shape) -> bool:
        """Whether a blob of this shape takes these values (Blob::ShapeEquals)."""
        if self.legacy:
            return len(shape) <= 4 and (1,) * (4 - len(shape)) + tuple(shape) == self.shape
        return tuple(shape) == self.shape

    def array(self) -> np.ndarray:
        """The values in `shape`: a read-only view of the file where it stores them in one piece.

        Raises WeightsError when the file does not hold as many values as the shape has.
        """
        if self.problem:
            raise WeightsError(self.problem)
        return self._fetch()


def shape_problem(shape: Shape) -> str | None:
    """Why Caffe could make no blob of this shape, or None."""
    if len(shape) > MAX_AXES:
        return f"its shape has {len(shape)} axes, at most {MAX_AXES} are allowed"
    if shape and not 0 <= min(shape) <= max(shape) < 1 << 31:
        return f"its shape {shape} has a dimension outside 0 to 2147483647"
    return None


def count_problem(shape: Shape, count: int) -> str | None:
    """Why `count` values cannot be a blob of this shape, or None."""
    problem = shape_problem(shape)
    if problem is None and math.prod(shape) != count:
        problem = f"its shape {shape} takes {math.prod(shape)} values, the file holds {count}"
    return problem


class _Arrays(Mapping[str, list["np.ndarray | None"]]):
    """The arrays of each layer, made when asked for."""

    def __init__(self, weights: Weights):
        self._weights = weights

    def __getitem__(self, layer: str) -> list[np.ndarray | None]:
        return [
            None if blob is None else self._weights.array(layer, i) for i, blob in enumerate(self._weights.blobs[layer])
        ]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights.blobs)

    def __len__(self) -> int:
        return len(self._weights.blobs)


class Weights:
    """An open weights file. Arrays taken from a .caffemodel (or plain HDF5 data sets) stay valid after it is closed.

    Attributes:
        path: the file.
        name: the net's name, "" in HDF5.
        is_hdf5: the file is HDF5, in which shared parameters are stored once, with the layer that owns them.
        blobs: layer name to its StoredBlobs, in file order; None where an HDF5 file leaves out a shared blob.
        types: layer name to its Caffe type; empty for HDF5, which does not store them.
    """

    def __init__(
        self,
        path: str,
        blobs: dict[str, list[StoredBlob | None]],
        types: dict[str, str] | None = None,
        name: str = "",
        is_hdf5: bool = False,
        read_definition: Callable[[], Any] | None = None,
        close: Callable[[], None] | None = None,
    ):
        self.path, self.name, self.is_hdf5 = path, name, is_hdf5
        self.blobs, self.types = blobs, types or {}
        self._read_definition, self._close = read_definition, close

    @property
    def layers(self) -> Mapping[str, list[np.ndarray | None]]:
        """Layer name to its arrays, in file order; read-only views where the file allows."""
        return _Arrays(self)

    def array(self, layer: str, index: int) -> np.ndarray:
        """One blob's values. Raises WeightsError naming the file and the layer when they cannot be had."""
        blob = self.blobs[layer][index]
        if blob is None:
            raise WeightsError(f"{self.path}: layer '{layer}' has no blob {index}; it is shared and stored elsewhere")
        try:
            return blob.array()
        except WeightsError as error:
            raise WeightsError(f"{self.path}: {blob_label(layer, self.types, index)}: {error}") from error

    def definition(self) -> Any:
        """The NetParameter stored with the weights, upgraded to current layers, without its blobs; None for HDF5."""
        return self._read_definition() if self._read_definition else None

    def close(self) -> None:
        """Release the file."""
        if self._close:
            self._close()
            self._close = None

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def layer_label(layer: str, types: Mapping[str, str]) -> str:
    """How errors name a layer."""
    type_ = types.get(layer)
    return f"layer '{layer}'" + (f" ({type_})" if type_ else "")


def blob_label(layer: str, types: Mapping[str, str], index: int) -> str:
    """How errors name a blob."""
    return f"{layer_label(layer, types)}, blob {index}"
