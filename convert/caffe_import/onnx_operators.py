"""ONNX operators as those of operators.py: one function for each, or for each family."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.onnx_constants import shape_of
from caffe_bridge.convert.caffe_import.onnx_node import OnnxNode
from caffe_bridge.convert.caffe_import.problems import Unsupported

Inputs = Sequence[Any]
Converter = Callable[[Builder, OnnxNode, Inputs], "Value | list[Value]"]

CONVERTERS: dict[str, Converter] = {}
"""ONNX operator to its function, which gets the builder, the node and its inputs (None where left out)."""


def converts(*operators: str) -> Callable[[Converter], Converter]:
    """Function decorator: the function reads these operators."""

    def add(function: Converter) -> Converter:
        CONVERTERS.update(dict.fromkeys(operators, function))
        return function

    return add


def _arrays(inputs: Inputs) -> list[Any]:
    return [None if value is None else value.array for value in inputs]


def _optional(inputs: Inputs, index: int) -> Any:
    return inputs[index] if index < len(inputs) else None


# -- filters ---------------------------------------------------------------------------------------------


def _padding(node: OnnxNode, x: Value, window: Sequence[int], stride: Sequence[int]) -> tuple[Any, Any]:
    """(begin, end) of a convolution or pooling, for windows of this extent."""
    count = len(window)
    mode = node.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = node.ints("pads", [0] * 2 * count)
        if len(pads) != 2 * count:
            raise Unsupported(f"has {len(pads)} pads for {count} axes")
        return pads[:count], pads[count:]
    if mode == "VALID":
        return (0,) * count, (0,) * count
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise Unsupported(f"has auto_pad '{mode}'")
    totals = [
        max(0, (-(-size // step) - 1) * step + extent - size) for size, extent, step in zip(x.shape[2:], window, stride)
    ]
    less, more = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
    return (less, more) if mode == "SAME_UPPER" else (more, less)


def _parameters(inputs: Inputs) -> list[Value]:
    """Constant weights and, where there is one, constant bias."""
    found = [value for value in inputs[1:3] if value is not None]
    for value, what in zip(found, ("a filter", "a bias")):
        value.constant(what)
    return found


@converts("Conv")
def conv(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Convolution of any number of axes."""
    x, parameters = inputs[0], _parameters(inputs)
    kernel = parameters[0].shape[2:]
    stride, dilation = node.ints("strides", [1] * len(kernel)), node.ints("dilations", [1] * len(kernel))
    window = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    begin, end = _padding(node, x, window, stride)
    geometry = {"stride": stride, "begin": begin, "end": end, "dilation": dilation}
    return b.add("conv", x, *parameters, **geometry, group=node.get("group", 1))


@converts("ConvTranspose")
def conv_transpose(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Transposed convolution."""
    x, parameters = inputs[0], _parameters(inputs)
    kernel = parameters[0].shape[2:]
    count = len(kernel)
    stride, dilation = node.ints("strides", [1] * count), node.ints("dilations", [1] * count)
    extra = node.ints("output_padding", [0] * count)
    pads = node.ints("pads", [0] * 2 * count)
    if not len(stride) == len(dilation) == len(extra) == count or len(pads) != 2 * count:
        raise Unsupported("has strides, dilations or pads that do not fit its kernel")
    begin, end = pads[:count], pads[count:]
    mode, wanted = node.get("auto_pad", "NOTSET"), node.ints("output_shape", ())[-count:]
    if mode in ("SAME_UPPER", "SAME_LOWER") and not wanted:
        wanted = tuple(size * step for size, step in zip(x.shape[2:], stride))
    if wanted:
        full = [(s - 1) * t + d * (k - 1) + 1 for s, t, d, k in zip(x.shape[2:], stride, dilation, kernel)]
        totals = [size + more - want for size, more, want in zip(full, extra, wanted)]
        extra = tuple(more + max(0, -total) for more, total in zip(extra, totals))
        less = tuple(max(0, total) // 2 for total in totals)
        rest = tuple(max(0, total) - part for total, part in zip(totals, less))
        begin, end = (less, rest) if mode != "SAME_LOWER" else (rest, less)
    geometry = {"stride": stride, "begin": begin, "end": end, "extra": extra, "dilation": dilation}
    return b.add("deconv", x, *parameters, **geometry, group=node.get("group", 1))


@converts("Gemm")
def gemm(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Fully connected layer; the weights must be constant."""
    x, bias = inputs[0], _optional(inputs, 2)
    if node.get("transA", 0):
        x = b.transpose(x, (1, 0))
    weight = np.asarray(inputs[1].constant("the weights"), np.float32) * np.float32(node.get("alpha", 1.0))
    weight = weight if node.get("transB", 0) else weight.T
    top = b.dense(x, b.constant(weight, inputs[1].name), None)
    return top if bias is None else b.binary("add", top, _times(b, bias, node.get("beta", 1.0)))


def _times(b: Builder, value: Value, factor: float) -> Value:
    if value.array is not None:
        return b.constant(value.array * np.float32(factor), value.name)
    return b.power(value, 1, factor)


@converts("MatMul")
def matmul(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Matrix product with a constant matrix."""
    return b.matmul(inputs[0], inputs[1])


# -- pooling ---------------------------------------------------------------------------------------------


def _windows(node: OnnxNode, x: Value) -> tuple[Any, Any, Any, Any, Any]:
    kernel = node.ints("kernel_shape", ())
    stride, dilation = node.ints("strides", [1] * len(kernel)), node.ints("dilations", [1] * len(kernel))
    begin, end = _padding(node, x, [d * (k - 1) + 1 for k, d in zip(kernel, dilation)], stride)
    return kernel, stride, begin, end, dilation


@converts("MaxPool")
def max_pool(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Maximum pooling, without positions."""
    kernel, stride, begin, end, dilation = _windows(node, inputs[0])
    return b.max_pool(inputs[0], kernel, stride, begin, end, bool(node.get("ceil_mode", 0)), dilation)


@converts("AveragePool")
def average_pool(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Average pooling."""
    kernel, stride, begin, end, dilation = _windows(node, inputs[0])
    if any(d != 1 for d in dilation):
        raise Unsupported("pools with dilation")
    ceil, padded = bool(node.get("ceil_mode", 0)), bool(node.get("count_include_pad", 0))
    return b.average_pool(inputs[0], kernel, stride, begin, end, ceil, padded)


@converts("GlobalAveragePool", "GlobalMaxPool")
def global_pool(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Pooling of whole images."""
    kind = "mean" if node.operator == "GlobalAveragePool" else "max"
    return b.reduce(kind, inputs[0], range(2, len(inputs[0].shape)), True)


@converts("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare")
@converts("ReduceLogSum", "ReduceLogSumExp")
def reduce(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Reduction over axes."""
    kind = node.operator.removeprefix("Reduce").lower().replace("sumsquare", "sumsq")
    axes = node.axes_of(_arrays(inputs))
    if axes is None and node.get("noop_with_empty_axes", 0):
        return inputs[0]
    top = b.reduce(
        kind.replace("logsum", "sum") if kind == "logsum" else kind, inputs[0], axes, bool(node.get("keepdims", 1))
    )
    return b.add("log", top) if kind == "logsum" else top


@converts("ArgMax")
def argmax(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Position of the maximum."""
    x, axis = inputs[0], b.axis(node.get("axis", 0), len(inputs[0].shape))
    top = b.add("argmax", x, axis=axis)
    return top if node.get("keepdims", 1) else b.squeeze(top, [axis])


# -- normalisation ---------------------------------------------------------------------------------------


@converts("BatchNormalization")
def batch_normalization(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """With running statistics."""
    if node.get("training_mode", 0) or node.outputs > 1 and not node.get("is_test", 1):
        raise Unsupported("normalises by the batch's own statistics", "export the model for inference")
    return b.batch_norm(inputs[0], inputs[1:5], node.get("epsilon", 1e-5))


@converts("InstanceNormalization")
def instance_normalization(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Each channel of each image."""
    return b.group_norm(inputs[0], inputs[0].shape[1], inputs[1], inputs[2], node.get("epsilon", 1e-5))


@converts("GroupNormalization")
def group_normalization(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Channels in groups."""
    x, groups = inputs[0], node["num_groups"]
    parameters = [value.constant("the parameters of a group normalisation") for value in inputs[1:3]]
    if node.opset < 21:
        parameters = [array.repeat(max(1, x.shape[1] // max(1, array.size))) for array in parameters]
    scale, shift = (b.constant(array) for array in parameters)
    return b.group_norm(x, groups, scale, shift, node.get("epsilon", 1e-5))


@converts("LayerNormalization")
def layer_normalization(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """The last axes."""
    ndim = len(inputs[0].shape)
    count = ndim - b.axis(node.get("axis", -1), ndim)
    return b.layer_norm(inputs[0], count, inputs[1], _optional(inputs, 2), node.get("epsilon", 1e-5))


@converts("LRN")
def lrn(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Local response normalisation across channels."""
    alpha, beta, k = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    return b.add("lrn", inputs[0], size=node["size"], alpha=alpha, beta=beta, k=k)


@converts("LpNormalization")
def lp_normalization(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Divided by the L1 or L2 norm along an axis."""
    kind = "l1" if node.get("p", 2) == 1 else "l2"
    return b.add("div", inputs[0], b.reduce(kind, inputs[0], [node.get("axis", -1)], True))


@converts("Softmax", "LogSoftmax")
def softmax(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Along one axis; before opset 13 over all axes from one on."""
    x, logarithm = inputs[0], node.operator == "LogSoftmax"
    if node.opset >= 13:
        return b.softmax(x, node.get("axis", -1), logarithm)
    axis = b.axis(node.get("axis", 1), len(x.shape))
    rows = b.reshape(x, [*x.shape[:axis], math.prod(x.shape[axis:])])
    return b.reshape(b.softmax(rows, axis, logarithm), x.shape)


# -- values one by one -----------------------------------------------------------------------------------

_PLAIN = {
    "Abs": "abs",
    "Exp": "exp",
    "HardSwish": "hard_swish",
    "Log": "log",
    "Mish": "mish",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Tanh": "tanh",
}


@converts(*_PLAIN)
def plain(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Activations without parameters."""
    return b.add(_PLAIN[node.operator], inputs[0])


@converts("LeakyRelu")
def leaky_relu(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """A slope below 0."""
    return b.add("leaky_relu", inputs[0], slope=node.get("alpha", 0.01))


@converts("PRelu")
def prelu(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Learned slopes per channel, or one."""
    return b.add("prelu", inputs[0], b.constant(inputs[1].constant("the slope"), inputs[1].name))


@converts("Elu")
def elu(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Exponential below 0."""
    return b.add("elu", inputs[0], alpha=node.get("alpha", 1.0))


@converts("Selu")
def selu(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """A scaled ELU."""
    top = b.add("elu", inputs[0], alpha=node.get("alpha", 1.6732632))
    return b.power(top, 1, node.get("gamma", 1.0507010))


@converts("Swish")
def swish(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """x sigmoid(alpha x)."""
    return b.add("swish", inputs[0], beta=node.get("alpha", 1.0))


@converts("HardSigmoid")
def hard_sigmoid(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """A line within 0 and 1."""
    return b.hard_sigmoid(inputs[0], node.get("alpha", 0.2), node.get("beta", 0.5))


@converts("Gelu")
def gelu(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """The approximation by tanh; Caffe has no error function."""
    if node.get("approximate", "none") != "tanh":
        raise Unsupported("uses the error function", "use GELU's approximation by tanh (approximate='tanh')")
    return b.gelu(inputs[0])


@converts("Softsign")
def softsign(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """x / (1 + |x|)."""
    return b.add("mul", inputs[0], b.power(b.power(b.add("abs", inputs[0]), 1, 1, 1), -1))


@converts("Clip")
def clip(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Limits."""
    for value in inputs[1:3]:
        if value is not None:
            value.constant("a limit")
    return b.clip(inputs[0], *node.limits(_arrays(inputs)))


_POWERS = {"Sqrt": (0.5, 1.0), "Reciprocal": (-1.0, 1.0), "Neg": (1.0, -1.0)}


@converts(*_POWERS)
def power(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Powers and signs."""
    return b.power(inputs[0], *_POWERS[node.operator])


@converts("Identity", "Dropout", "Cast", "CastLike")
def identity(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Nothing at inference; blobs hold single precision whatever the type."""
    return inputs[0]


# -- several values --------------------------------------------------------------------------------------


@converts("Add", "Sub", "Mul", "Div", "Pow")
def binary(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Arithmetic with broadcasting."""
    return b.binary(node.operator.lower(), inputs[0], inputs[1])


@converts("Sum", "Max", "Min", "Mean")
def variadic(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Sum, maximum, minimum or mean of values."""
    kind = {"Sum": "add", "Mean": "add"}.get(node.operator, node.operator.lower())
    top = inputs[0]
    for value in inputs[1:]:
        if top.array is not None and value.array is not None:
            raise Unsupported("has several constant inputs", "fold them into one")
        top = b.binary(kind, top, value)
    return b.power(top, 1, 1 / len(inputs)) if node.operator == "Mean" else top


@converts("Concat")
def concat(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Values one after another."""
    return b.concat(list(inputs), node["axis"])


@converts("Split")
def split(b: Builder, node: OnnxNode, inputs: Inputs) -> list[Value]:
    """Parts along an axis."""
    x = inputs[0]
    axis = b.axis(node.get("axis", 0), len(x.shape))
    return b.split(x, axis, node.split_sizes(_arrays(inputs), x.shape[axis]))


# -- shapes ----------------------------------------------------------------------------------------------


@converts("Shape", "Size")
def shape(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """A constant, since shapes are fixed."""
    return b.constant(shape_of(node, inputs[0].shape))


@converts("Reshape")
def reshape(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Another shape."""
    dims = node.ints_of(_arrays(inputs), 1, "shape")
    return b.reshape_like(inputs[0], dims, not node.get("allowzero", 0))


@converts("Flatten")
def flatten(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Two axes."""
    x, axis = inputs[0], node.get("axis", 1)
    axis = axis if axis == len(x.shape) else b.axis(axis, len(x.shape))
    return b.reshape(x, [math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


@converts("Squeeze")
def squeeze(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Fewer axes."""
    return b.squeeze(inputs[0], node.axes_of(_arrays(inputs)))


@converts("Unsqueeze")
def unsqueeze(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """More axes."""
    return b.unsqueeze(inputs[0], node.ints_of(_arrays(inputs), 1, "axes"))


@converts("Transpose")
def transpose(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Axes in another order."""
    return b.transpose(inputs[0], node.ints("perm", range(len(inputs[0].shape))[::-1]))


@converts("Expand")
def expand(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Broadcasting."""
    return b.expand(inputs[0], node.ints_of(_arrays(inputs), 1, "shape"))


@converts("Tile")
def tile(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Repetition."""
    return b.add("tile", inputs[0], repeats=tuple(node.ints_of(_arrays(inputs), 1, "repeats")))


@converts("Slice")
def slice_(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Parts of axes."""
    top = inputs[0]
    for axis, start, stop, step in node.slices(_arrays(inputs), inputs[0].shape):
        top = b.slice(top, axis, start, stop, step)
    return top


@converts("Gather")
def gather(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Constant positions of a value, or rows of a constant table."""
    data, index = inputs[:2]
    if index.array is not None:
        return b.take(data, node.get("axis", 0), index.array)
    if data.array is None or len(data.shape) != 2 or node.get("axis", 0) != 0:
        raise Unsupported("gathers at positions that are computed", "only rows of a constant table can be")
    return b.add("embed", index, data)


@converts("Pad")
def pad(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Cells around a value."""
    x, arrays = inputs[0], _arrays(inputs)
    pads = node.ints_of(arrays, 1, "pads")
    ndim = len(x.shape)
    axes = node.optional_ints(arrays, 3, "axes") or list(range(ndim))
    if len(pads) != 2 * len(axes):
        raise Unsupported(f"has {len(pads)} pads for {len(axes)} axes")
    begin, end = [0] * ndim, [0] * ndim
    for i, axis in enumerate(axes):
        begin[b.axis(axis, ndim)], end[b.axis(axis, ndim)] = pads[i], pads[i + len(axes)]
    given = _optional(arrays, 2)
    value = node.get("value", 0.0) if given is None else float(np.asarray(given).reshape(-1)[0])
    return b.pad(x, begin, end, node.get("mode", "constant"), value)


@converts("Resize", "Upsample")
def resize(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Interpolation."""
    x, arrays = inputs[0], _arrays(inputs)
    mode = node.get("mode", "nearest")
    old = node.operator == "Upsample" or node.opset == 10
    given = arrays[1 if old else 2] if len(arrays) > (1 if old else 2) else None
    scales = [float(s) for s in (node.get("scales", ()) if given is None else np.asarray(given).reshape(-1))]
    wanted = None if old else node.optional_ints(arrays, 3, "sizes")
    if any(value is not None and value.array is None for value in inputs[1:]):
        raise Unsupported("resizes to a size that is computed at run time", "export with fixed shapes")
    if mode not in ("nearest", "linear", "cubic") or node.get("antialias", 0) or node.get("exclude_outside", 0):
        raise Unsupported(f"resizes by '{mode}' in a way that is not supported")
    if mode == "cubic" and node.get("cubic_coeff_a", -0.75) != -0.75:
        raise Unsupported("has another cubic coefficient than -0.75")
    if not wanted and not scales or node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unsupported("says neither sizes nor scales, or keeps the aspect ratio")
    axes = [b.axis(axis, len(x.shape)) for axis in node.ints("axes", range(len(x.shape)))]
    if len(axes) != len(wanted or scales):
        raise Unsupported(f"has {len(wanted or scales)} sizes for {len(axes)} axes")
    sizes, factors = list(x.shape), [1.0] * len(x.shape)
    for i, axis in enumerate(axes):
        sizes[axis] = wanted[i] if wanted else math.floor(x.shape[axis] * _finite(scales[i]))
        factors[axis] = sizes[axis] / x.shape[axis] if wanted else scales[i]
    coordinates = "asymmetric" if old else node.get("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if old else node.get("nearest_mode", "round_prefer_floor")
    return b.resize(x, sizes, factors, mode, coordinates, rounding)


def _finite(scale: float) -> float:
    if not 0 < scale < 2**31:
        raise Unsupported(f"resizes by {scale}")
    return scale


@converts("DepthToSpace")
def depth_to_space(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Channels to blocks of cells."""
    return b.add("depth_to_space", inputs[0], block=node["blocksize"], channels_first=node.get("mode", "DCR") == "CRD")


@converts("SpaceToDepth")
def space_to_depth(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Blocks of cells to channels."""
    return b.add("space_to_depth", inputs[0], block=node["blocksize"], channels_first=False)
