"""The same values in other shapes: torch's operators as those of operators.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caffe_bridge.convert.caffe_import import resampling
from caffe_bridge.convert.caffe_import.aten.registry import converts, several
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.problems import Unsupported


@converts("view", "reshape", "_unsafe_view", "view_copy", "_reshape_copy")
def view(b: Builder, x: Value, size: Sequence[int]) -> Value:
    """Another shape."""
    return b.reshape_like(x, list(size), zero_copies=False)


@converts("flatten")
def flatten(b: Builder, x: Value, start: int = 0, end: int = -1) -> Value:
    """Several axes as one."""
    return b.flatten(x, start, end)


@converts("unflatten")
def unflatten(b: Builder, x: Value, dim: int, sizes: Sequence[int]) -> Value:
    """One axis as several."""
    dim = b.axis(dim, len(x.shape))
    return b.reshape_like(x, [*x.shape[:dim], *sizes, *x.shape[dim + 1 :]], zero_copies=False)


@converts("squeeze")
def squeeze(b: Builder, x: Value, dim: Any = None) -> Value:
    """Fewer axes."""
    return b.squeeze(x, [dim] if isinstance(dim, int) else dim)


@converts("unsqueeze")
def unsqueeze(b: Builder, x: Value, dim: int) -> Value:
    """One more axis."""
    return b.unsqueeze(x, [dim])


@converts("permute")
def permute(b: Builder, x: Value, dims: Sequence[int]) -> Value:
    """Axes in another order."""
    return b.transpose(x, dims)


@converts("transpose", "swapaxes")
def transpose(b: Builder, x: Value, first: int, second: int) -> Value:
    """Two axes swapped."""
    order = list(range(len(x.shape)))
    order[first], order[second] = order[second], order[first]
    return b.transpose(x, order)


@converts("movedim", "moveaxis")
def movedim(b: Builder, x: Value, source: Any, destination: Any) -> Value:
    """Axes moved to other places, the rest in their order."""
    ndim = len(x.shape)
    places = {
        b.axis(place, ndim): b.axis(axis, ndim)
        for axis, place in zip(several(source, 1), several(destination, 1), strict=True)
    }
    rest = iter([axis for axis in range(ndim) if axis not in places.values()])
    return b.transpose(x, [places[place] if place in places else next(rest) for place in range(ndim)])


@converts("t", "numpy_T")
def t(b: Builder, x: Value) -> Value:
    """A matrix on its side."""
    return b.transpose(x, range(len(x.shape))[::-1])


@converts("expand")
def expand(b: Builder, x: Value, size: Sequence[int], implicit: bool = False) -> Value:
    """Broadcasting."""
    shape = (1,) * (len(size) - len(x.shape)) + x.shape
    return b.expand(x, [have if want == -1 else want for have, want in zip(shape, size)])


@converts("expand_as")
def expand_as(b: Builder, x: Value, other: Value) -> Value:
    """Broadcasting."""
    return b.expand(x, other.shape)


@converts("repeat")
def repeat(b: Builder, x: Value, repeats: Sequence[int]) -> Value:
    """Repetition."""
    x = b.reshape(x, (1,) * (len(repeats) - len(x.shape)) + x.shape)
    return b.add("tile", x, repeats=tuple(repeats))


@converts("repeat_interleave")
def repeat_interleave(b: Builder, x: Value, repeats: Any, dim: Any = None, output_size: Any = None) -> Value:
    """Every cell of an axis several times."""
    if not isinstance(repeats, int) or dim is None:
        raise Unsupported("repeats cells by numbers that differ")
    size = x.shape[dim]
    return b.linear(
        x, {b.axis(dim, len(x.shape)): resampling.chosen(size, [i // repeats for i in range(size * repeats)])}
    )
