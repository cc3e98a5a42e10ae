"""torch's operators as those of operators.py: functions with the operators' own arguments, tensors as values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from caffe_bridge.convert.caffe_import import resampling
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.problems import Unsupported

Converter = Callable[..., Any]

CONVERTERS: dict[str, Converter] = {}
"""Operator of the namespace aten, whatever its overload, to its function, which gets the builder and the arguments."""


def converts(*operators: str) -> Callable[[Converter], Converter]:
    """Function decorator: the function reads these operators."""

    def add(function: Converter) -> Converter:
        CONVERTERS.update(dict.fromkeys(operators, function))
        return function

    return add


def _several(value: Any, count: int) -> tuple[int, ...]:
    """One number for all axes, or one for each."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * count if len(values) == 1 else values


# -- filters ---------------------------------------------------------------------------------------------


@converts("conv1d", "conv2d", "conv3d")
def conv(
    b: Builder,
    x: Value,
    weight: Value,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """Convolution."""
    count = len(weight.shape) - 2
    dilation = _several(dilation, count)
    if isinstance(padding, str):
        totals = [d * (k - 1) if padding == "same" else 0 for k, d in zip(weight.shape[2:], dilation)]
        begin, end = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
    else:
        begin = end = _several(padding, count)
    geometry = {"stride": _several(stride, count), "begin": begin, "end": end, "dilation": dilation}
    return b.add("conv", x, *_parameters(weight, bias), **geometry, group=groups)


def _parameters(weight: Value, bias: Value | None) -> list[Value]:
    weight.constant("a filter")
    if bias is not None:
        bias.constant("a bias")
    return [weight] if bias is None else [weight, bias]


@converts("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(
    b: Builder,
    x: Value,
    weight: Value,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Value:
    """Transposed convolution."""
    count = len(weight.shape) - 2
    pad = _several(padding, count)
    geometry = {"stride": _several(stride, count), "begin": pad, "end": pad, "dilation": _several(dilation, count)}
    parameters = _parameters(weight, bias)
    return b.add("deconv", x, *parameters, **geometry, extra=_several(output_padding, count), group=groups)


@converts("convolution")
def convolution(
    b: Builder,
    x: Value,
    weight: Value,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Value:
    """Convolution or transposed convolution."""
    if transposed:
        return conv_transpose(b, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv(b, x, weight, bias, stride, padding, dilation, groups)


@converts("linear")
def linear(b: Builder, x: Value, weight: Value, bias: Any = None) -> Value:
    """Fully connected layer over the last axis."""
    return b.dense(x, *_parameters(weight, bias)) if bias is not None else b.dense(x, weight, None)


@converts("addmm")
def addmm(b: Builder, bias: Value, x: Value, weight: Value, beta: float = 1, alpha: float = 1) -> Value:
    """Matrix product plus a term."""
    top = b.power(b.matmul(x, weight), 1, alpha)
    return b.binary("add", top, b.constant(bias.constant("the bias") * np.float32(beta)))


@converts("mm", "matmul", "bmm")
def matmul(b: Builder, x: Value, weight: Value) -> Value:
    """Matrix product with a constant matrix."""
    return b.matmul(x, weight)


@converts("embedding")
def embedding(b: Builder, table: Value, index: Value, *_: Any) -> Value:
    """Rows of a table."""
    return b.add("embed", index, table)


@converts("scaled_dot_product_attention", "_native_multi_head_attention")
def attention(b: Builder, *_: Any, **__: Any) -> Value:
    """Refused."""
    raise Unsupported("is attention", "Caffe has no product of two computed matrices")


# -- pooling ---------------------------------------------------------------------------------------------


@converts("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(
    b: Builder,
    x: Value,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Value:
    """Maximum pooling."""
    kernel, steps, pad = _windows(x, kernel_size, stride, padding)
    return b.max_pool(x, kernel, steps, pad, pad, ceil_mode, _several(dilation, len(kernel)))


def _windows(x: Value, kernel_size: Any, stride: Any, padding: Any) -> tuple[Any, Any, Any]:
    count = len(x.shape) - 2
    kernel = _several(kernel_size, count)
    return kernel, _several(stride, count) if stride not in ((), [], None) else kernel, _several(padding, count)


@converts("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices")
def max_pool_with_indices(b: Builder, *arguments: Any, **keywords: Any) -> list[Value | None]:
    """Maximum pooling, without positions."""
    return [max_pool(b, *arguments, **keywords), None]


@converts("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(
    b: Builder,
    x: Value,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Value:
    """Average pooling."""
    kernel, steps, pad = _windows(x, kernel_size, stride, padding)
    return b.average_pool(x, kernel, steps, pad, pad, ceil_mode, count_include_pad, divisor_override)


@converts("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d")
def adaptive_avg_pool(b: Builder, x: Value, output_size: Sequence[int]) -> Value:
    """Average pooling to a size."""
    return b.adaptive_average(x, output_size)


@converts("adaptive_max_pool1d", "adaptive_max_pool2d")
def adaptive_max_pool(b: Builder, x: Value, output_size: Sequence[int]) -> list[Value | None]:
    """Maximum pooling to a size, without positions."""
    return [b.adaptive_max(x, output_size), None]


_REDUCTIONS = {"mean": "mean", "sum": "sum", "amax": "max", "amin": "min", "logsumexp": "logsumexp"}


def _reducing(kind: str) -> Converter:
    def reduce(b: Builder, x: Value, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
        """Reduction over axes."""
        axes = [dim] if isinstance(dim, int) else dim
        return b.reduce(kind, x, axes or None, keepdim)

    return reduce


for _operator, _kind in _REDUCTIONS.items():
    CONVERTERS[_operator] = _reducing(_kind)


@converts("max")
def largest(b: Builder, x: Value, other: Any = None, keepdim: bool = False) -> Any:
    """The larger of two values, or the largest along an axis, without its position."""
    return _extreme("max", b, x, other, keepdim)


def _extreme(kind: str, b: Builder, x: Value, other: Any, keepdim: bool) -> Any:
    if isinstance(other, Value):
        return b.binary(kind, x, other)
    if other is None:
        return b.reduce(kind, x, None, False)
    return [b.reduce(kind, x, [other], keepdim), None]


@converts("min")
def smallest(b: Builder, x: Value, other: Any = None, keepdim: bool = False) -> Any:
    """The smaller of two values, or the smallest along an axis, without its position."""
    return _extreme("min", b, x, other, keepdim)


@converts("linalg_vector_norm", "norm")
def norm(b: Builder, x: Value, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Value:
    """L1 or L2 norm over axes."""
    if ord not in (1, 2, None):
        raise Unsupported(f"is the norm of order {ord}", "1 and 2 are possible")
    return b.reduce("l1" if ord == 1 else "l2", x, [dim] if isinstance(dim, int) else dim, keepdim)


@converts("argmax")
def argmax(b: Builder, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    """Position of the maximum."""
    if dim is None:
        x, dim = b.flatten(x, 0, -1), 0
    top = b.add("argmax", x, axis=b.axis(dim, len(x.shape)))
    return top if keepdim else b.squeeze(top, [dim])


# -- normalisation ---------------------------------------------------------------------------------------


@converts("batch_norm")
def batch_norm(
    b: Builder,
    x: Value,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Value:
    """With running statistics."""
    if training or mean is None or variance is None:
        raise Unsupported("normalises by the batch's own statistics", "export the module in eval mode")
    ones = b.constant(np.ones(mean.shape, np.float32)) if weight is None else weight
    zeros = b.constant(np.zeros(mean.shape, np.float32)) if bias is None else bias
    return b.batch_norm(x, [ones, zeros, mean, variance], eps)


@converts("_native_batch_norm_legit_no_training")
def native_batch_norm(
    b: Builder, x: Value, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float, eps: float
) -> list[Value | None]:
    """With running statistics."""
    return [batch_norm(b, x, weight, bias, mean, variance, False, momentum, eps), None, None]


@converts("instance_norm")
def instance_norm(
    b: Builder,
    x: Value,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Value:
    """Each channel of each image."""
    if not use_input_stats:
        return batch_norm(b, x, weight, bias, mean, variance, False, momentum, eps)
    return b.group_norm(x, x.shape[1], weight, bias, eps)


@converts("group_norm")
def group_norm(
    b: Builder, x: Value, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Value:
    """Channels in groups."""
    return b.group_norm(x, groups, weight, bias, eps)


@converts("native_group_norm")
def native_group_norm(
    b: Builder, x: Value, weight: Any, bias: Any, n: int, c: int, hw: int, groups: int, eps: float
) -> list[Value | None]:
    """Channels in groups."""
    return [b.group_norm(x, groups, weight, bias, eps), None, None]


@converts("layer_norm")
def layer_norm(
    b: Builder, x: Value, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Value:
    """The last axes."""
    return b.layer_norm(x, len(shape), weight, bias, eps)


@converts("native_layer_norm")
def native_layer_norm(
    b: Builder, x: Value, shape: Sequence[int], weight: Any, bias: Any, eps: float
) -> list[Value | None]:
    """The last axes."""
    return [b.layer_norm(x, len(shape), weight, bias, eps), None, None]


@converts("softmax", "_softmax")
def softmax(b: Builder, x: Value, dim: int, *_: Any) -> Value:
    """Along one axis."""
    return b.softmax(x, dim)


@converts("log_softmax", "_log_softmax")
def log_softmax(b: Builder, x: Value, dim: int, *_: Any) -> Value:
    """The logarithm of softmax."""
    return b.softmax(x, dim, logarithm=True)


# -- values one by one -----------------------------------------------------------------------------------

_PLAIN = {
    "abs": "abs",
    "exp": "exp",
    "hardswish": "hard_swish",
    "log": "log",
    "mish": "mish",
    "relu": "relu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}


def _plain(name: str) -> Converter:
    def activation(b: Builder, x: Value) -> Value:
        """An activation without parameters."""
        return b.add(name, x)

    return activation


for _operator, _kind in _PLAIN.items():
    CONVERTERS[_operator] = _plain(_kind)


@converts("silu")
def silu(b: Builder, x: Value) -> Value:
    """x sigmoid(x)."""
    return b.add("swish", x, beta=1.0)


@converts("relu6")
def relu6(b: Builder, x: Value) -> Value:
    """A ReLU that ends at 6."""
    return b.clip(x, 0, 6)


@converts("hardtanh")
def hardtanh(b: Builder, x: Value, low: float = -1, high: float = 1) -> Value:
    """Limits."""
    return b.clip(x, low, high)


@converts("clamp", "clip")
def clamp(b: Builder, x: Value, low: Any = None, high: Any = None) -> Value:
    """Limits, either of which may be missing."""
    if isinstance(low, Value) or isinstance(high, Value):
        raise Unsupported("limits values by tensors", "use numbers")
    return b.clip(x, -math.inf if low is None else low, math.inf if high is None else high)


@converts("clamp_min")
def clamp_min(b: Builder, x: Value, low: float) -> Value:
    """A lower limit."""
    return b.clip(x, low, math.inf)


@converts("clamp_max")
def clamp_max(b: Builder, x: Value, high: float) -> Value:
    """An upper limit."""
    return b.clip(x, -math.inf, high)


@converts("leaky_relu")
def leaky_relu(b: Builder, x: Value, slope: float = 0.01) -> Value:
    """A slope below 0."""
    return b.add("leaky_relu", x, slope=slope)


@converts("prelu", "_prelu_kernel")
def prelu(b: Builder, x: Value, weight: Value) -> Value:
    """Learned slopes per channel, or one."""
    slope = weight.constant("the slope").reshape(-1, *[1] * max(0, len(x.shape) - 2))
    return b.add("prelu", x, b.constant(slope))


@converts("elu")
def elu(b: Builder, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    """Exponential below 0."""
    if input_scale != 1:
        raise Unsupported("is an ELU with a scaled input")
    return b.power(b.add("elu", x, alpha=alpha), 1, scale)


@converts("selu")
def selu(b: Builder, x: Value) -> Value:
    """A scaled ELU."""
    return elu(b, x, 1.6732632423543772, 1.0507009873554805)


@converts("celu")
def celu(b: Builder, x: Value, alpha: float = 1) -> Value:
    """Exponential below 0, stretched."""
    return b.power(b.add("elu", b.power(x, 1, 1 / alpha), alpha=1.0), 1, alpha)


@converts("softplus")
def softplus(b: Builder, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    """log(1 + exp(beta x)) / beta."""
    return b.power(b.add("softplus", b.power(x, 1, beta)), 1, 1 / beta)


@converts("hardsigmoid")
def hardsigmoid(b: Builder, x: Value) -> Value:
    """A line within 0 and 1."""
    return b.hard_sigmoid(x, 1 / 6, 0.5)


@converts("gelu")
def gelu(b: Builder, x: Value, approximate: str = "none") -> Value:
    """The approximation by tanh; Caffe has no error function."""
    if approximate != "tanh":
        raise Unsupported("uses the error function", "use GELU's approximation by tanh (approximate='tanh')")
    return b.gelu(x)


@converts("log_sigmoid")
def log_sigmoid(b: Builder, x: Value) -> Value:
    """The logarithm of the logistic function."""
    return b.add("log", b.add("sigmoid", x))


_POWERS = {
    "neg": (1.0, -1.0),
    "reciprocal": (-1.0, 1.0),
    "rsqrt": (-0.5, 1.0),
    "sqrt": (0.5, 1.0),
    "square": (2.0, 1.0),
}


def _raised(power: float, scale: float) -> Converter:
    def raised(b: Builder, x: Value) -> Value:
        """A power, or a sign."""
        return b.power(x, power, scale)

    return raised


for _operator, _numbers in _POWERS.items():
    CONVERTERS[_operator] = _raised(*_numbers)


@converts("contiguous", "clone", "detach", "alias", "lift_fresh_copy", "_to_copy", "to", "type_as", "float")
def same(b: Builder, x: Value, *_: Any, **__: Any) -> Value:
    """Nothing; blobs hold single precision whatever the type."""
    return x


@converts("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")
def dropout(b: Builder, x: Value, p: float, train: Any) -> Value:
    """Nothing at inference."""
    if train and p:
        raise Unsupported("drops values at random", "export the module in eval mode")
    return x


# -- several values --------------------------------------------------------------------------------------


def _value(b: Builder, found: Any) -> Value:
    return found if isinstance(found, Value) else b.constant(np.float32(found))


@converts("add")
def add(b: Builder, x: Any, y: Any, alpha: float = 1) -> Value:
    """x + alpha y."""
    return b.binary("add", _value(b, x), _times(b, _value(b, y), alpha))


@converts("sub", "subtract")
def sub(b: Builder, x: Any, y: Any, alpha: float = 1) -> Value:
    """x - alpha y."""
    return b.binary("sub", _value(b, x), _times(b, _value(b, y), alpha))


@converts("rsub")
def rsub(b: Builder, x: Any, y: Any, alpha: float = 1) -> Value:
    """y - alpha x."""
    return sub(b, y, x, alpha)


def _times(b: Builder, value: Value, factor: float) -> Value:
    return b.constant(value.array * np.float32(factor)) if value.array is not None else b.power(value, 1, factor)


@converts("mul", "multiply")
def mul(b: Builder, x: Any, y: Any) -> Value:
    """A product."""
    return b.binary("mul", _value(b, x), _value(b, y))


@converts("div", "divide", "true_divide")
def div(b: Builder, x: Any, y: Any, rounding_mode: Any = None) -> Value:
    """A quotient."""
    if rounding_mode is not None:
        raise Unsupported("rounds a quotient")
    return b.binary("div", _value(b, x), _value(b, y))


@converts("pow")
def power(b: Builder, x: Any, y: Any) -> Value:
    """A power."""
    return b.binary("pow", _value(b, x), _value(b, y))


@converts("maximum")
def maximum(b: Builder, x: Value, y: Value) -> Value:
    """The larger."""
    return b.binary("max", x, y)


@converts("minimum")
def minimum(b: Builder, x: Value, y: Value) -> Value:
    """The smaller."""
    return b.binary("min", x, y)


@converts("cat", "concat", "concatenate")
def cat(b: Builder, tensors: Sequence[Value], dim: int = 0) -> Value:
    """Values one after another."""
    return b.concat(list(tensors), dim)


@converts("stack")
def stack(b: Builder, tensors: Sequence[Value], dim: int = 0) -> Value:
    """Values one after another along a new axis."""
    return b.concat([b.unsqueeze(value, [dim]) for value in tensors], dim)


# -- parts -----------------------------------------------------------------------------------------------


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
    """Constant positions along one axis."""
    given = [(axis, value) for axis, value in enumerate(indices) if value is not None]
    if len(given) != 1:
        raise Unsupported("indexes several axes at once", "index one after the other")
    axis, value = given[0]
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
    shifts, dims = _several(shifts, 1), _several(dims, 1)
    maps = {}
    for shift, dim in zip(shifts, dims, strict=True):
        axis = b.axis(dim, len(x.shape))
        size = x.shape[axis]
        maps[axis] = resampling.chosen(size, [(i - shift) % size for i in range(size)])
    return b.linear(x, maps)


# -- shapes ----------------------------------------------------------------------------------------------


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


# -- images ----------------------------------------------------------------------------------------------


@converts("pad", "constant_pad_nd")
def pad(b: Builder, x: Value, pads: Sequence[int], mode: Any = "constant", value: Any = 0) -> Value:
    """Cells around a value."""
    if not isinstance(mode, str):
        mode, value = "constant", mode
    begin, end = [0] * len(x.shape), [0] * len(x.shape)
    for i in range(len(pads) // 2):
        begin[-1 - i], end[-1 - i] = pads[2 * i], pads[2 * i + 1]
    return b.pad(x, begin, end, mode, value or 0)


@converts("reflection_pad1d", "reflection_pad2d")
def reflection_pad(b: Builder, x: Value, pads: Sequence[int]) -> Value:
    """Reflected edges."""
    return pad(b, x, pads, "reflect")


@converts("replication_pad1d", "replication_pad2d")
def replication_pad(b: Builder, x: Value, pads: Sequence[int]) -> Value:
    """Repeated edges."""
    return pad(b, x, pads, "replicate")


def _resizing(mode: str, nearest: str = "asymmetric") -> Converter:
    def resize(b: Builder, x: Value, size: Any, *options: Any, **named: Any) -> Value:
        """Interpolation."""
        rest = list(options)
        corners = bool(named.get("align_corners", rest.pop(0) if mode != "nearest" and rest else False))
        factors = named.get("scale_factors", rest[0] if rest and isinstance(rest[0], (list, tuple)) else None)
        inner = len(x.shape) - 2
        if factors is None:
            given = [named.get(key) for key in ("scales", "scales_h", "scales_w") if key in named] or rest
            factors = given if len(given) == inner and all(f is not None for f in given) else None
        if size is None:
            size = [math.floor(have * factor) for have, factor in zip(x.shape[2:], factors or ())]
        sizes = [*x.shape[:2], *size]
        used = [want / have for have, want in zip(x.shape, sizes)]
        if factors is not None:
            used[2:] = [float(factor) for factor in factors if factor is not None]
        coordinates = nearest if mode == "nearest" else "align_corners" if corners else "half_pixel"
        rounding = "floor" if nearest == "asymmetric" else "round_prefer_ceil"
        return b.resize(x, sizes, used, mode, coordinates, rounding)

    return resize


for _axes, _linear in (("1d", "linear"), ("2d", "bilinear"), ("3d", "trilinear")):
    CONVERTERS[f"upsample_nearest{_axes}"] = _resizing("nearest")
    CONVERTERS[f"_upsample_nearest_exact{_axes}"] = _resizing("nearest", "half_pixel")
    CONVERTERS[f"upsample_{_linear}{_axes}"] = _resizing("linear")
CONVERTERS["upsample_bicubic2d"] = _resizing("cubic")


@converts("pixel_shuffle")
def pixel_shuffle(b: Builder, x: Value, factor: int) -> Value:
    """Channels to blocks of cells."""
    return b.add("depth_to_space", x, block=factor, channels_first=True)


@converts("pixel_unshuffle")
def pixel_unshuffle(b: Builder, x: Value, factor: int) -> Value:
    """Blocks of cells to channels."""
    return b.add("space_to_depth", x, block=factor, channels_first=True)


@converts("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(b: Builder, x: Value, groups: int) -> Value:
    """Channels of the groups dealt out in turn."""
    return b.add("shuffle", x, group=groups)
