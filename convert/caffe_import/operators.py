"""The operators a graph is made of, with the shapes they make.

Attributes are tuples over the spatial axes where they concern windows: kernel, stride, dilation, begin and end (cells
of padding). A rule takes the inputs' shapes and the attributes and returns the shapes of the outputs.

    conv(x, weight[, bias]; stride, begin, end, dilation, group)        weight (out, in / group, *kernel)
    deconv(x, weight[, bias]; stride, begin, end, extra, dilation, group)   weight (in, out / group, *kernel)
    dense(x, weight[, bias]; axis)             weight (out, in); everything from `axis` on is one row
    max_pool(x; kernel, stride, begin, end, ceil, dilation)
    avg_pool(x; kernel, stride, begin, end, ceil, padded, divisor)      padded: the padding counts
    reduce(x; kind, axes, keep)                kind: mean sum max min abs square
    batch_norm(x, scale, shift, mean, variance; eps)
    standardize(x; axes, eps)                  mean 0 and deviation 1 over `axes`
    normalize(x; eps, scale)                   divided by the L2 norm over axis 1, times an array, (C,) or (), or None
    lrn(x; size, alpha, beta, k)               softmax(x; axis)
    relu elu(alpha) leaky_relu(slope) sigmoid tanh softplus exp log abs mish hard_swish swish(beta) clip(low, high)
    threshold(x; threshold): 1 above it, else 0    sign(x): -1, 0 or 1    erf(x)
    gelu(x): x (1 + erf(x / sqrt 2)) / 2
    prelu(x, slope)                            power(x; power, scale, shift): (shift + scale x)^power
    affine(x; scale, shift)                    arrays that broadcast to x, or None
    add sub mul div max min (a, b)
    reshape(x; shape)   transpose(x; order)    concat(...; axis)      split(x; axis, sizes)
    slice(x; axis, start, stop, step)          pad(x; begin, end, value): of every axis
    crop(x, reference; offset)                 to the sides of a reference
    linear(x; maps)                            maps: axis to a matrix (out, in) that is applied along it
    tile(x; repeats)                           expand(x; shape)       shuffle(x; group)
    depth_to_space(x; block, channels_first)   space_to_depth(x; block, channels_first)
    embed(index, table)                        argmax(x; axis)
    layer(...; param, blobs)                   a Caffe layer as it is
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.layers.base import Shape

Rule = Callable[[Sequence[Shape], Mapping[str, Any]], list[Shape]]


def shapes_of(operator: str, shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    """The shapes of an operator's outputs. Raises Unsupported where the inputs do not fit."""
    return _RULES.get(operator, _same)(shapes, attributes)


def window_count(size: int, window: int, stride: int, begin: int, end: int, ceil: bool = False) -> int:
    """How many windows there are along an axis; rounding up leaves out one that starts behind the leading padding."""
    room = size + begin + end - window
    if room < 0 and not (ceil and room > -stride):
        return 0
    count = -(-room // stride) + 1 if ceil else room // stride + 1
    if ceil and (count - 1) * stride >= size + begin:
        count -= 1
    return count


def _same(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    return [shapes[0]]


def _windows(shape: Shape, kernel: Sequence[int], attributes: Mapping[str, Any]) -> Shape:
    """The spatial shape after windows slid over `shape`."""
    dilation = attributes.get("dilation") or (1,) * len(kernel)
    if not len(kernel) == len(shape) - 2 == len(attributes["stride"]) == len(dilation):
        raise Unsupported(f"a kernel of {len(kernel)} axes does not fit an input of {len(shape)}")
    counts = []
    for i, size in enumerate(shape[2:]):
        window = dilation[i] * (kernel[i] - 1) + 1
        stride, begin, end = attributes["stride"][i], attributes["begin"][i], attributes["end"][i]
        if min(kernel[i], stride, dilation[i]) < 1 or min(begin, end) < 0:
            raise Unsupported("kernel, stride and dilation must be positive, and padding not negative")
        counts.append(window_count(size, window, stride, begin, end, attributes.get("ceil", False)))
        if counts[-1] < 1:
            raise Unsupported(f"a window of {window} cells is larger than the padded image")
    return tuple(counts)


def _conv(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    x, weight, *bias = shapes
    group = attributes["group"]
    if len(x) < 3 or len(weight) != len(x) or group < 1 or weight[1] * group != x[1] or weight[0] % group:
        raise Unsupported(f"weights {weight} in {group} group(s) do not fit")
    if bias and bias[0] != (weight[0],):
        raise Unsupported(f"a bias {bias[0]} does not fit weights {weight}")
    return [(x[0], weight[0], *_windows(x, weight[2:], attributes))]


def _deconv(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    x, weight, *bias = shapes
    group = attributes["group"]
    if len(x) < 3 or len(weight) != len(x) or group < 1 or weight[0] != x[1] or weight[0] % group:
        raise Unsupported(f"weights {weight} in {group} group(s) do not fit")
    if bias and bias[0] != (weight[1] * group,):
        raise Unsupported(f"a bias {bias[0]} does not fit weights {weight}")
    keys = ("stride", "begin", "end", "extra", "dilation")
    if any(len(attributes[key]) != len(x) - 2 for key in keys):
        raise Unsupported(f"a kernel of {len(weight) - 2} axes does not fit an input of {len(x)}")
    spatial = []
    for i, (size, kernel) in enumerate(zip(x[2:], weight[2:])):
        stride, begin, end, extra, dilation = (attributes[key][i] for key in keys)
        if min(stride, dilation) < 1 or min(begin, end, extra) < 0:
            raise Unsupported("stride and dilation must be positive, and padding not negative")
        spatial.append((size - 1) * stride + dilation * (kernel - 1) + 1 - begin - end + extra)
    return [(x[0], weight[1] * group, *spatial)]


def _dense(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    x, weight, *bias = shapes
    axis = attributes["axis"]
    if len(weight) != 2 or math.prod(x[axis:]) != weight[1]:
        raise Unsupported(f"weights {weight} do not fit")
    if bias and bias[0] != (weight[0],):
        raise Unsupported(f"a bias {bias[0]} does not fit weights {weight}")
    return [(*x[:axis], weight[0])]


def _pool(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    (x,) = shapes
    if len(x) < 3:
        raise Unsupported(f"pooling needs spatial axes, which {x} has not")
    return [(*x[:2], *_windows(x, attributes["kernel"], attributes))]


def _reduce(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    (x,) = shapes
    axes, keep = attributes["axes"], attributes["keep"]
    return [tuple(1 if i in axes else size for i, size in enumerate(x) if keep or i not in axes)]


def _per_channel(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    x, *parameters = shapes
    if len(x) < 2 or any(shape != (x[1],) for shape in parameters):
        raise Unsupported(f"parameters {', '.join(map(str, parameters))} do not fit the channels of {x}")
    return [x]


def _broadcast(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    try:
        return [np.broadcast_shapes(*shapes)]
    except ValueError:
        raise Unsupported(f"shapes {', '.join(map(str, shapes))} do not broadcast") from None


def _affine(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    arrays = [array.shape for array in (attributes["scale"], attributes["shift"]) if array is not None]
    return _broadcast([shapes[0], *arrays], attributes)


def _reshape(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    (x,), shape = shapes, tuple(attributes["shape"])
    if math.prod(shape) != math.prod(x) or any(size < 0 for size in shape):
        raise Unsupported(f"cannot be reshaped from {x} to {shape}")
    return [shape]


def _transpose(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    (x,), order = shapes, attributes["order"]
    if sorted(order) != list(range(len(x))):
        raise Unsupported(f"{tuple(order)} is no order of {len(x)} axes")
    return [tuple(x[i] for i in order)]


def _concat(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    first, axis = shapes[0], attributes["axis"]
    for shape in shapes:
        if (*shape[:axis], *shape[axis + 1 :]) != (*first[:axis], *first[axis + 1 :]):
            raise Unsupported(f"{shape} and {first} cannot be joined along axis {axis}")
    return [(*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])]


def _split(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    (x,), axis, sizes = shapes, attributes["axis"], attributes["sizes"]
    if sum(sizes) != x[axis]:
        raise Unsupported(f"parts of {tuple(sizes)} do not make up axis {axis} of {x}")
    return [(*x[:axis], size, *x[axis + 1 :]) for size in sizes]


def _slice(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    (x,), axis = shapes, attributes["axis"]
    size = len(range(attributes["start"], attributes["stop"], attributes["step"]))
    return [(*x[:axis], size, *x[axis + 1 :])]


def _pad(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    (x,), begin, end = shapes, attributes["begin"], attributes["end"]
    if not len(begin) == len(end) == len(x):
        raise Unsupported(f"padding for {len(begin)} axes does not fit {x}")
    return [tuple(size + b + e for size, b, e in zip(x, begin, end))]


def _linear(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    (x,), maps = shapes, attributes["maps"]
    return [tuple(maps[i].shape[0] if i in maps else size for i, size in enumerate(x))]


def _tile(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    (x,), repeats = shapes, attributes["repeats"]
    if len(repeats) != len(x):
        raise Unsupported(f"repeats {tuple(repeats)} do not fit {x}")
    return [tuple(size * times for size, times in zip(x, repeats))]


def _expand(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    return _broadcast([shapes[0], tuple(attributes["shape"])], attributes)


def _shuffle(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    (x,), group = shapes, attributes["group"]
    if len(x) < 2 or group < 1 or x[1] % group:
        raise Unsupported(f"{group} groups do not fit the channels of {x}")
    return [x]


def _depth_to_space(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    (x,), block = shapes, attributes["block"]
    if len(x) != 4 or block < 1 or x[1] % block**2:
        raise Unsupported(f"blocks of {block} do not fit the channels of {x}")
    return [(x[0], x[1] // block**2, x[2] * block, x[3] * block)]


def _space_to_depth(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    (x,), block = shapes, attributes["block"]
    if len(x) != 4 or block < 1 or x[2] % block or x[3] % block:
        raise Unsupported(f"blocks of {block} do not fit the sides of {x}")
    return [(x[0], x[1] * block**2, x[2] // block, x[3] // block)]


def _embed(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    index, table = shapes
    return [(*index, table[1])]


def _argmax(shapes: Sequence[Shape], attributes: Mapping[str, Any]) -> list[Shape]:
    (x,), axis = shapes, attributes["axis"]
    return [(*x[:axis], 1, *x[axis + 1 :])]


_RULES: dict[str, Rule] = {
    "add": _broadcast,
    "affine": _affine,
    "argmax": _argmax,
    "avg_pool": _pool,
    "batch_norm": _per_channel,
    "concat": _concat,
    "conv": _conv,
    "deconv": _deconv,
    "dense": _dense,
    "depth_to_space": _depth_to_space,
    "div": _broadcast,
    "embed": _embed,
    "expand": _expand,
    "linear": _linear,
    "max": _broadcast,
    "max_pool": _pool,
    "min": _broadcast,
    "mul": _broadcast,
    "pad": _pad,
    "reduce": _reduce,
    "reshape": _reshape,
    "shuffle": _shuffle,
    "slice": _slice,
    "space_to_depth": _space_to_depth,
    "split": _split,
    "sub": _broadcast,
    "tile": _tile,
    "transpose": _transpose,
}
