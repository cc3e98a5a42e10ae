"""Lowering that ONNX and torch have in common: one method for each thing a net may do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from caffe_bridge.convert.caffe_import import resampling
from caffe_bridge.convert.caffe_import.graph import Graph, Value, check_size
from caffe_bridge.convert.caffe_import.operators import shapes_of
from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.convert.caffe_import.whole_layers import shapes_of_layer

_LEAST_BUDGET = 32 << 20


class Builder:
    """Appends operators to a graph.

    Args:
        name: the net's name.
        weights: bytes of the weights, which bound what constants may be computed from them.
    """

    def __init__(self, name: str, weights: int):
        self.graph = Graph(name)
        self.budget = _LEAST_BUDGET + 3 * weights
        self._name = self._origin = ""

    def begin(self, name: str, origin: str) -> None:
        """What is added from now on comes from this node of the source."""
        self._name, self._origin = name, origin

    def charge(self, count: int, itemsize: int = 4) -> None:
        """Account for the elements of a constant to be made. Raises Unsupported where constants become too many."""
        self.budget -= count * itemsize
        if self.budget < 0:
            raise Unsupported("computes constants that are far larger than the model", "compute them before exporting")

    # -- values ------------------------------------------------------------------------------------------

    def add_input(self, name: str, shape: Sequence[int]) -> Value:
        """An input of the net."""
        check_size(shape)
        value = Value(name, shape)
        self.graph.inputs.append(value)
        return value

    def constant(self, array: Any, name: str = "") -> Value:
        """A constant, as it is."""
        array = np.asarray(array)
        return Value(name or self._name, array.shape, array)

    def add_many(self, operator: str, inputs: Sequence[Value], **attributes: Any) -> list[Value]:
        """Append a node; returns its outputs."""
        shapes = shapes_of(operator, [value.shape for value in inputs], attributes)
        return self.graph.add(operator, inputs, shapes, attributes, self._name, self._origin).outputs

    def add(self, operator: str, *inputs: Value, **attributes: Any) -> Value:
        """Append a node with one output; returns it."""
        return self.add_many(operator, inputs, **attributes)[0]

    def add_layer(
        self, param: Any, tops: int, inputs: Sequence[Value], blobs: Sequence[np.ndarray] = ()
    ) -> list[Value]:
        """Append a layer as it is, with its weights; returns its tops. Raises Unsupported if it does not fit."""
        shapes, weights = shapes_of_layer(param, tops, [value.shape for value in inputs])
        if [math.prod(shape) for shape in weights] != [blob.size for blob in blobs]:
            raise Unsupported(f"has weights {[blob.shape for blob in blobs]}, not {weights}")
        attributes = {"param": param, "blobs": [blob.reshape(shape) for blob, shape in zip(blobs, weights)]}
        return self.graph.add("layer", inputs, shapes, attributes, param.name or self._name, self._origin).outputs

    # -- arithmetic --------------------------------------------------------------------------------------

    def power(self, x: Value, power: float = 1, scale: float = 1, shift: float = 0) -> Value:
        """(shift + scale x)^power."""
        if (power, scale, shift) == (1, 1, 0):
            return x
        return self.add("power", x, power=float(power), scale=float(scale), shift=float(shift))

    def affine(self, x: Value, scale: np.ndarray | None, shift: np.ndarray | None) -> Value:
        """scale x + shift, for arrays that broadcast; numbers if they are the same everywhere."""
        scale, shift = (None if array is None else _unspread(array) for array in (scale, shift))
        arrays = [array for array in (scale, shift) if array is not None]
        x = self.expand(x, np.broadcast_shapes(x.shape, *(array.shape for array in arrays)))
        if all(array.size and (array == array.flat[0]).all() for array in arrays):
            numbers = [default if a is None else a.flat[0] for a, default in ((scale, 1), (shift, 0))]
            return self.power(x, 1, float(numbers[0]), float(numbers[1]))
        scale, shift = (None if a is None else a.astype(np.float32) for a in (scale, shift))
        return self.add("affine", x, scale=scale, shift=shift)

    def binary(self, kind: str, a: Value, b: Value) -> Value:
        """add, sub, mul, div, max, min or pow of two values, one of which may be constant."""
        if a.array is None and b.array is None:
            if kind == "pow":
                raise Unsupported("raises to a power that is no constant")
            return self.add(kind, a, b)
        if a.array is None:
            return self._with_constant(kind, self.expand(a, b.shape), _numbers(np.asarray(b.array)))
        return self._with_constant_first(kind, _numbers(np.asarray(a.array)), self.expand(b, a.shape))

    def _with_constant(self, kind: str, x: Value, c: np.ndarray) -> Value:
        if kind in ("add", "sub"):
            return self.affine(x, None, c if kind == "add" else -c)
        if kind in ("mul", "div"):
            with np.errstate(divide="ignore"):
                return self.affine(x, c if kind == "mul" else np.float32(1) / c, None)
        if c.size and kind in ("max", "min") and (c != c.flat[0]).any():
            # max(x, c) = relu(x - c) + c, min(x, c) = c - relu(c - x)
            if kind == "max":
                return self.affine(self.add("relu", self.affine(x, None, -c)), None, c)
            turned = np.array(-1, np.float32)
            return self.affine(self.add("relu", self.affine(x, turned, c)), turned, c)
        if not c.size or (c != c.flat[0]).any():
            raise Unsupported(f"takes '{kind}' with a constant of shape {c.shape}", "one number is possible")
        number = float(c.flat[0])
        if kind == "pow":
            return self.power(x, number)
        return self.clip(x, number, math.inf) if kind == "max" else self.clip(x, -math.inf, number)

    def _with_constant_first(self, kind: str, c: np.ndarray, x: Value) -> Value:
        if kind == "sub":
            return self.affine(x, np.array(-1, np.float32), c)
        if kind == "div":
            return self.affine(self.power(x, -1), c, None)
        if kind == "pow":
            base = float(c.flat[0]) if c.size and (c == c.flat[0]).all() else 0
            if base <= 0:
                raise Unsupported("raises a constant that is not one positive number to a power")
            return self.add("exp", self.power(x, 1, math.log(base)))
        return self._with_constant(kind, x, c)

    def clip(self, x: Value, low: float, high: float) -> Value:
        """Limits, which may be infinite."""
        if (low, high) == (-math.inf, math.inf):
            return x
        return self.add("relu", x) if (low, high) == (0, math.inf) else self.add("clip", x, low=low, high=high)

    def hard_sigmoid(self, x: Value, slope: float, shift: float) -> Value:
        """slope x + shift, within 0 and 1."""
        return self.clip(self.power(x, 1, slope, shift), 0, 1)

    def gelu(self, x: Value, approximate: bool) -> Value:
        """x times the normal distribution, or x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
        if not approximate:
            return self.add("gelu", x)
        cube = self.add("mul", self.power(self.power(x, 2), 1, 0.044715, 1), x)
        gate = self.add("tanh", self.power(cube, 1, math.sqrt(2 / math.pi)))
        return self.add("mul", x, self.power(gate, 1, 0.5, 0.5))

    def softmax(self, x: Value, axis: int, logarithm: bool = False) -> Value:
        """Along one axis, or its logarithm."""
        top = self.add("softmax", x, axis=self.axis(axis, len(x.shape)))
        return self.add("log", top) if logarithm else top

    def reduce(self, kind: str, x: Value, axes: Sequence[int] | None, keep: bool) -> Value:
        """mean, sum, max, min, l1, l2, sumsq or logsumexp over axes, all of them for None."""
        ndim = len(x.shape)
        found = sorted({self.axis(axis, ndim) for axis in axes}) if axes is not None else list(range(ndim))
        if not found:
            return x
        if kind == "l2":
            return self.power(self.reduce("sumsq", x, found, keep), 0.5)
        if kind == "logsumexp":
            # The largest is taken off first: exp overflows above 88.
            largest = self.reduce("max", x, found, True)
            total = self.reduce("sum", self.add("exp", self.add("sub", x, largest)), found, True)
            top = self.add("add", self.add("log", total), largest)
            return top if keep else self.reshape(top, [size for i, size in enumerate(x.shape) if i not in found])
        kind = {"l1": "abs", "sumsq": "square"}.get(kind, kind)
        top = self.add("reduce", x, kind=kind, axes=tuple(found), keep=True)
        return top if keep else self.reshape(top, [size for i, size in enumerate(x.shape) if i not in found])

    def product(self, x: Value, axis: int, keep: bool) -> Value:
        """The product over an axis."""
        axis = self.axis(axis, len(x.shape))
        if x.shape[axis] > 64:
            raise Unsupported(f"multiplies {x.shape[axis]} values along an axis", "64 are possible")
        top, *others = self.split(x, axis, [1] * x.shape[axis])
        for part in others:
            top = self.add("mul", top, part)
        return top if keep else self.squeeze(top, [axis])

    # -- filters and normalisation -----------------------------------------------------------------------

    def dense(self, x: Value, weight: Value, bias: Value | None) -> Value:
        """weight (out, in) applied to the last axis."""
        parameters = [weight] if bias is None else [weight, bias]
        return self.add("dense", x, *parameters, axis=len(x.shape) - 1)

    def matmul(self, a: Value, b: Value) -> Value:
        """NumPy's matmul where one factor is a constant matrix."""
        if b.array is not None and len(b.shape) == 2 and len(a.shape) >= 2:
            return self.dense(a, self.constant(b.array.T, b.name), None)
        if a.array is not None and len(a.shape) == 2 and len(b.shape) >= 2:
            return self.linear(b, {len(b.shape) - 2: np.asarray(a.array, np.float32)})
        raise Unsupported(
            "multiplies two values that are both computed", "Caffe's InnerProduct has constant weights only"
        )

    def batch_norm(self, x: Value, parameters: Sequence[Value], eps: float) -> Value:
        """By scale, shift, mean and variance, (C,) each, all constant."""
        for value, what in zip(parameters, ("scale", "shift", "mean", "variance")):
            value.constant(f"the {what} of a batch normalisation")
        return self.add("batch_norm", x, *parameters, eps=float(eps))

    def group_norm(self, x: Value, groups: int, scale: Value | None, shift: Value | None, eps: float) -> Value:
        """Channels in groups, each with mean 0 and deviation 1; as many groups as channels is instance norm."""
        batch, channels, *spatial = x.shape
        if groups < 1 or channels % groups:
            raise Unsupported(f"{groups} groups do not fit {channels} channels")
        top = self.reshape(x, [batch, groups, channels // groups, *spatial]) if groups != channels else x
        top = self.add("standardize", top, axes=tuple(range(2, len(top.shape))), eps=float(eps))
        top = self.reshape(top, x.shape)
        return self._scaled(top, scale, shift, (channels, *[1] * len(spatial)))

    def layer_norm(self, x: Value, count: int, scale: Value | None, shift: Value | None, eps: float) -> Value:
        """The last `count` axes."""
        ndim = len(x.shape)
        top = self.add("standardize", x, axes=tuple(range(ndim - count, ndim)), eps=float(eps))
        return self._scaled(top, scale, shift, x.shape[ndim - count :])

    def _scaled(self, x: Value, scale: Value | None, shift: Value | None, shape: Sequence[int]) -> Value:
        arrays = [
            None if value is None else np.asarray(value.constant(f"the {what}"), np.float32).reshape(tuple(shape))
            for value, what in ((scale, "scale"), (shift, "shift"))
        ]
        return x if all(array is None for array in arrays) else self.affine(x, arrays[0], arrays[1])

    # -- shapes ------------------------------------------------------------------------------------------

    @staticmethod
    def axis(axis: int, ndim: int) -> int:
        """A non-negative axis. Raises Unsupported outside the value's axes."""
        if not -max(ndim, 1) <= axis < max(ndim, 1):
            raise Unsupported(f"axis {axis} is outside a value of {ndim} axes")
        return axis % max(ndim, 1)

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """The same values in another shape."""
        target = tuple(int(size) for size in shape)
        if x.array is not None and math.prod(target) == x.array.size and min(target, default=1) > 0:
            return self.constant(x.array.reshape(target), x.name)
        return x if target == x.shape else self.add("reshape", x, shape=target)

    def reshape_like(self, x: Value, dims: Sequence[int], zero_copies: bool = True) -> Value:
        """To dims of which one may be -1, and 0 may stand for the size of the input's axis."""
        shape = [x.shape[i] if d == 0 and zero_copies and i < len(x.shape) else d for i, d in enumerate(dims)]
        if shape.count(-1) == 1:
            known = math.prod(size for size in shape if size != -1)
            shape[shape.index(-1)] = math.prod(x.shape) // known if known else 0
        return self.reshape(x, shape)

    def flatten(self, x: Value, start: int, end: int) -> Value:
        """Axes start to end, included, as one."""
        shape = x.shape or (1,)
        start, end = self.axis(start, len(shape)), self.axis(end, len(shape))
        return self.reshape(x, [*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]])

    def squeeze(self, x: Value, axes: Sequence[int] | None) -> Value:
        """Without axes of one element: these, or all; others stay."""
        found = range(len(x.shape)) if axes is None else [self.axis(axis, len(x.shape)) for axis in axes]
        return self.reshape(x, [size for i, size in enumerate(x.shape) if i not in found or size != 1])

    def unsqueeze(self, x: Value, axes: Sequence[int]) -> Value:
        """With axes of one element where the result is to have them."""
        ndim = len(x.shape) + len(axes)
        found = {self.axis(axis, ndim) for axis in axes}
        rest = iter(x.shape)
        return self.reshape(x, [1 if i in found else next(rest) for i in range(ndim)])

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        """Axes in another order; only a reshape where those of more than one element keep theirs."""
        order = tuple(self.axis(axis, len(x.shape)) for axis in order)
        moved = [axis for axis in order if x.shape[axis] > 1]
        if sorted(order) == list(range(len(x.shape))) and moved == sorted(moved):
            return self.reshape(x, [x.shape[axis] for axis in order])
        return self.add("transpose", x, order=order)

    def expand(self, x: Value, shape: Sequence[int]) -> Value:
        """Broadcast to a shape."""
        target = np.broadcast_shapes(x.shape, tuple(shape))
        if x.array is not None:
            return self.constant(np.broadcast_to(x.array, target), x.name)
        return x if target == x.shape else self.add("expand", x, shape=target)

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Joined along an axis."""
        values = [value for value in values if value.shape != (0,)]
        axis = self.axis(axis, len(values[0].shape))
        return values[0] if len(values) == 1 else self.add("concat", *values, axis=axis)

    def split(self, x: Value, axis: int, sizes: Sequence[int]) -> list[Value]:
        """Parts of these sizes."""
        axis = self.axis(axis, len(x.shape))
        return [x] if len(sizes) == 1 else self.add_many("split", [x], axis=axis, sizes=tuple(sizes))

    def slice(self, x: Value, axis: int, start: int, stop: int | None, step: int = 1) -> Value:
        """Python's x[start:stop:step] along an axis."""
        axis = self.axis(axis, len(x.shape))
        size = x.shape[axis]
        start, stop, step = slice(start, stop, step).indices(size) if step else (0, 0, 1)
        if step < 0:
            return self.linear(x, {axis: resampling.chosen(size, range(start, stop, step))})
        stop = max(start, stop)
        if (start, stop, step) == (0, size, 1):
            return x
        return self.add("slice", x, axis=axis, start=start, stop=stop, step=step)

    def take(self, x: Value, axis: int, index: np.ndarray) -> Value:
        """NumPy's take: positions along an axis, which an array of no axes removes."""
        axis = self.axis(axis, len(x.shape))
        size = x.shape[axis]
        flat = index.reshape(-1).astype(np.int64)
        if not flat.size or flat.min() < -size or flat.max() >= size:
            raise Unsupported(f"takes positions outside an axis of {size}")
        found = [int(i) % size for i in flat]
        if found == list(range(found[0], found[0] + len(found))):
            top = self.slice(x, axis, found[0], found[-1] + 1)
        else:
            top = self.linear(x, {axis: resampling.chosen(size, found)})
        return self.reshape(top, [*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])

    # -- images ------------------------------------------------------------------------------------------

    def pad(self, x: Value, begin: Sequence[int], end: Sequence[int], mode: str, value: float = 0.0) -> Value:
        """Cells around the value on all axes; negative numbers cut off."""
        if not len(begin) == len(end) == len(x.shape):
            raise Unsupported(f"padding for {len(begin)} axes does not fit {x.shape}")
        for axis, (b, e) in enumerate(zip(begin, end)):
            if b < 0 or e < 0:
                x = self.slice(x, axis, max(0, -b), x.shape[axis] - max(0, -e))
        begin, end = tuple(max(0, b) for b in begin), tuple(max(0, e) for e in end)
        if not any((*begin, *end)):
            return x
        if mode == "constant":
            return self.add("pad", x, begin=begin, end=end, value=float(value))
        sizes = {axis: (size, begin[axis], end[axis]) for axis, size in enumerate(x.shape) if begin[axis] or end[axis]}
        return self.linear(x, {axis: resampling.padded(*found, mode) for axis, found in sizes.items()})

    def linear(self, x: Value, maps: dict[int, np.ndarray]) -> Value:
        """A matrix (out, in) applied along each of some axes."""
        maps = {axis: matrix for axis, matrix in maps.items() if not _is_identity(matrix)}
        for matrix in maps.values():
            self.charge(matrix.size)
        return self.add("linear", x, maps=maps) if maps else x

    def resize(
        self,
        x: Value,
        sizes: Sequence[int],
        scales: Sequence[float],
        mode: str,
        coordinates: str,
        rounding: str = "floor",
    ) -> Value:
        """Nearest, linear or cubic interpolation to `sizes` (all axes), by ONNX's coordinate_transformation_mode."""
        check_size(sizes)
        maps = {}
        for axis, (size, wanted, scale) in enumerate(zip(x.shape, sizes, scales)):
            if size == wanted and scale == 1:
                continue
            resampling.empty(wanted, size)
            found = resampling.positions(size, wanted, scale, coordinates)
            if mode == "nearest":
                maps[axis] = resampling.nearest(size, found, rounding)
            else:
                maps[axis] = resampling.interpolated(size, found, -0.75 if mode == "cubic" else None)
        return self.linear(x, maps)

    def adaptive_average(self, x: Value, sizes: Sequence[int]) -> Value:
        """torch's adaptive average pooling of the last axes to `sizes`."""
        first = len(x.shape) - len(sizes)
        inner = x.shape[first:]
        if all(size == 1 for size in sizes):
            return self.reduce("mean", x, range(first, len(x.shape)), True)
        if any(size < 1 for size in sizes):
            raise Unsupported(f"pools to {tuple(sizes)}")
        if len(sizes) == 2 and first == 2 and all(size % wanted == 0 for size, wanted in zip(inner, sizes)):
            if inner == tuple(sizes):
                return x
            kernel = tuple(size // wanted for size, wanted in zip(inner, sizes))
            return self.average_pool(x, kernel, kernel, (0, 0), (0, 0))
        return self.linear(
            x, {first + i: resampling.adaptive_means(inner[i], wanted) for i, wanted in enumerate(sizes)}
        )

    def adaptive_max(self, x: Value, sizes: Sequence[int]) -> Value:
        """torch's adaptive maximum pooling of the last axes to `sizes`."""
        first = len(x.shape) - len(sizes)
        inner = x.shape[first:]
        if all(size == 1 for size in sizes):
            return self.reduce("max", x, range(first, len(x.shape)), True)
        if any(size < 1 for size in sizes):
            raise Unsupported(f"pools to {tuple(sizes)}")
        if any(have % size for have, size in zip(inner, sizes)):
            for axis, (have, size) in enumerate(zip(inner, sizes), first):
                x, *others = (self.linear(x, {axis: tap}) for tap in resampling.adaptive_windows(have, size))
                for other in others:
                    x = self.add("max", x, other)
            return x
        kernel = tuple(have // size for have, size in zip(inner, sizes))
        return self.max_pool(x, kernel, kernel, (0,) * len(sizes), (0,) * len(sizes))

    def average_pool(
        self,
        x: Value,
        kernel: Sequence[int],
        stride: Sequence[int],
        begin: Sequence[int],
        end: Sequence[int],
        ceil: bool = False,
        padded: bool = True,
        divisor: int | None = None,
    ) -> Value:
        """Average pooling; `padded` counts the padding, `divisor` is what to divide by in place of the cells."""
        windows = {"kernel": tuple(kernel), "stride": tuple(stride), "begin": tuple(begin), "end": tuple(end)}
        return self.add("avg_pool", x, **windows, ceil=ceil, padded=padded, divisor=divisor)

    def max_pool(
        self,
        x: Value,
        kernel: Sequence[int],
        stride: Sequence[int],
        begin: Sequence[int],
        end: Sequence[int],
        ceil: bool = False,
        dilation: Sequence[int] | None = None,
    ) -> Value:
        """Maximum pooling."""
        windows = {"kernel": tuple(kernel), "stride": tuple(stride), "begin": tuple(begin), "end": tuple(end)}
        return self.add("max_pool", x, **windows, ceil=ceil, dilation=tuple(dilation or (1,) * len(kernel)))


def _numbers(array: np.ndarray) -> np.ndarray:
    """In single precision, one number along axes over which the array was spread."""
    return np.asarray(_unspread(array), np.float32)


def _unspread(array: np.ndarray) -> np.ndarray:
    """The array with one element along axes over which it is only a view of the same."""
    return array[tuple(slice(0, 1) if step == 0 else slice(None) for step in array.strides)]


def _is_identity(matrix: np.ndarray) -> bool:
    return matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix), dtype=matrix.dtype))
