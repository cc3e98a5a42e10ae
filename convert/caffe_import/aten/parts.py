"""Parts of a tensor: torch's operators as those of operators.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from caffe_bridge import schema
from caffe_bridge.convert.caffe_import import resampling
from caffe_bridge.convert.caffe_import.aten.registry import converts, several
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.problems import Unsupported


@converts("split", "split_with_sizes")
def split(b: Builder, x: Value, size: Any, dim: int = 0) -> list[Value]:
    """Parts of a size, or of sizes."""
    whole = x.shape[dim]
    if isinstance(size, int):
        size = [min(size, whole - start) for start in range(0, whole, size)]
    return b.split(x, dim, size)


@converts("chunk")
def chunk(b: Builder, x: Value, chunks: int, dim: int = 0) -> list[Value]:
    """That many parts."""
    return split(b, x, -(-x.shape[dim] // chunks), dim)


@converts("tensor_split")
def tensor_split(b: Builder, x: Value, sections: Any, dim: int = 0) -> list[Value]:
    """That many parts of sizes as equal as can be, or parts between places."""
    axis = b.axis(dim, len(x.shape))
    size = x.shape[axis]
    if isinstance(sections, Value):
        sections = sections.constant("where to split").tolist()
    if isinstance(sections, int):
        points = [i * (size // sections) + min(i, size % sections) for i in range(1, sections)]
    else:
        points = list(sections)
    return [b.slice(x, axis, start, stop) for start, stop in zip([0, *points], [*points, size])]


@converts("unbind")
def unbind(b: Builder, x: Value, dim: int = 0) -> list[Value]:
    """Parts of one cell, without the axis."""
    return [b.squeeze(part, [dim]) for part in b.split(x, dim, [1] * x.shape[dim])]


@converts("select")
def select(b: Builder, x: Value, dim: int, index: int) -> Value:
    """One cell of an axis, which goes."""
    return b.take(x, dim, np.array(index))


@converts("slice")
def slice_(b: Builder, x: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    """A part of an axis."""
    return b.slice(x, dim, 0 if start is None else start, end, step)


@converts("narrow")
def narrow(b: Builder, x: Value, dim: int, start: int, length: int) -> Value:
    """A part of an axis."""
    start = start % x.shape[dim]
    return b.slice(x, dim, start, start + length)


@converts("index_select")
def index_select(b: Builder, x: Value, dim: int, index: Value) -> Value:
    """Constant positions along an axis."""
    return b.take(x, dim, index.constant("an index"))


@converts("index")
def index(b: Builder, x: Value, indices: Sequence[Any]) -> Value:
    """Constant positions along one axis, or computed ones along the first: BatchReindex."""
    given = [(axis, value) for axis, value in enumerate(indices) if value is not None]
    if len(given) != 1:
        raise Unsupported("indexes several axes at once", "index one after the other")
    axis, value = given[0]
    if value.array is None and axis == 0 and len(value.shape) == 1:
        return b.add_layer(schema.LayerParameter(type="BatchReindex"), 1, [x, value])[0]
    array = value.constant("an index")
    return b.take(x, axis, np.nonzero(array)[0] if array.dtype == bool and array.ndim == 1 else array)


@converts("flip")
def flip(b: Builder, x: Value, dims: Sequence[int]) -> Value:
    """Axes turned around."""
    axes = [b.axis(dim, len(x.shape)) for dim in dims]
    return b.linear(x, {axis: resampling.chosen(x.shape[axis], range(x.shape[axis])[::-1]) for axis in axes})


@converts("roll")
def roll(b: Builder, x: Value, shifts: Any, dims: Any = ()) -> Value:
    """Axes turned round and round."""
    shifts, dims = several(shifts, 1), several(dims, 1)
    maps = {}
    for shift, dim in zip(shifts, dims, strict=True):
        axis = b.axis(dim, len(x.shape))
        size = x.shape[axis]
        maps[axis] = resampling.chosen(size, [(i - shift) % size for i in range(size)])
    return b.linear(x, maps)
