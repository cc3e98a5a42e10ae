"""What ONNX operators make of constants: the arithmetic of shapes, axes and weights that exporters leave in graphs.

Every function takes the node and its inputs as arrays (None where left out) and a `charge` that refuses results which
are too large before they are made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import helper

from caffe_bridge.convert.caffe_import.onnx_node import OnnxNode
from caffe_bridge.convert.caffe_import.problems import Unsupported

Arrays = Sequence[Any]
Charge = Callable[[int, int], None]

_BINARY: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add,
    "And": np.logical_and,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Mul": np.multiply,
    "Or": np.logical_or,
    "Pow": lambda a, b: np.power(a, b).astype(a.dtype),
    "Sub": np.subtract,
    "Xor": np.logical_xor,
}
_UNARY: dict[str, Callable[..., np.ndarray]] = {
    "Abs": np.abs,
    "Ceil": np.ceil,
    "Cos": np.cos,
    "Exp": np.exp,
    "Floor": np.floor,
    "Identity": lambda x: x,
    "Log": np.log,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Reciprocal": np.reciprocal,
    "Relu": lambda x: np.maximum(x, 0),
    "Round": np.round,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Sign": np.sign,
    "Sin": np.sin,
    "Sqrt": np.sqrt,
    "Tanh": np.tanh,
}
_REDUCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "ReduceMax": np.max,
    "ReduceMean": np.mean,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
}


def can_fold(operator: str) -> bool:
    """Whether the operator is computed here when all its inputs are constant."""
    return operator in _BINARY or operator in _UNARY or operator in _REDUCTIONS or operator in _OTHERS


def fold(node: OnnxNode, arrays: Arrays, charge: Charge) -> list[np.ndarray]:
    """The node's outputs. Raises Unsupported where the inputs do not fit, or the result would be too large."""
    operator = node.operator
    if not arrays or any(array is None for array in arrays[:1]):
        if operator not in ("Constant", "Range"):
            raise Unsupported("has no input")
    try:
        with np.errstate(all="ignore"):
            if operator in _UNARY:
                charge(arrays[0].size, 8)
                return [np.asarray(_UNARY[operator](arrays[0]), arrays[0].dtype if operator != "Not" else None)]
            if operator in _BINARY:
                charge(math.prod(np.broadcast_shapes(arrays[0].shape, arrays[1].shape)), 8)
                return [np.asarray(_BINARY[operator](arrays[0], arrays[1]))]
            if operator in _REDUCTIONS:
                return [_reduced(node, arrays)]
            found = _OTHERS[operator](node, arrays, charge)
            return found if isinstance(found, list) else [np.asarray(found)]
    except (ValueError, IndexError, TypeError, OverflowError, AttributeError, KeyError, MemoryError) as error:
        raise Unsupported(f"does not fit its constant inputs: {error}") from error


def _reduced(node: OnnxNode, arrays: Arrays) -> np.ndarray:
    axes = node.axes_of(arrays)
    if axes is None and node.get("noop_with_empty_axes", 0):
        return arrays[0]
    found = _REDUCTIONS[node.operator](arrays[0], axis=axes and tuple(axes), keepdims=bool(node.get("keepdims", 1)))
    return np.asarray(found, arrays[0].dtype)


def _div(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    a, b = arrays[:2]
    charge(math.prod(np.broadcast_shapes(a.shape, b.shape)), 8)
    if not np.issubdtype(a.dtype, np.integer):
        return np.divide(a, b)
    if (b == 0).any():
        raise ValueError("division by zero")
    quotient = np.abs(a) // np.abs(b)
    return (np.sign(a) * np.sign(b) * quotient).astype(a.dtype)


def _mod(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    charge(math.prod(np.broadcast_shapes(arrays[0].shape, arrays[1].shape)), 8)
    if (arrays[1] == 0).any():
        raise ValueError("division by zero")
    return (np.fmod if node.get("fmod", 0) else np.mod)(arrays[0], arrays[1])


def _extreme(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    charge(math.prod(np.broadcast_shapes(*(array.shape for array in arrays))), 8)
    result = arrays[0]
    for array in arrays[1:]:
        result = np.maximum(result, array) if node.operator == "Max" else np.minimum(result, array)
    return result


def _clip(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    low, high = node.limits(arrays)
    charge(arrays[0].size, 8)
    return np.clip(arrays[0], low, high).astype(arrays[0].dtype)


def _where(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    charge(math.prod(np.broadcast_shapes(*(array.shape for array in arrays))), 8)
    condition, *choices = arrays
    return np.asarray(np.where(condition, *choices))


def _cast(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(node["to"]))
    if dtype.kind not in "biuf":
        raise ValueError(f"type {dtype}")
    charge(arrays[0].size, dtype.itemsize)
    return arrays[0].astype(dtype)


def _shape(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    return shape_of(node, arrays[0].shape)


def shape_of(node: OnnxNode, shape: Sequence[int]) -> np.ndarray:
    """What Shape or Size makes of a value of this shape."""
    if node.operator == "Size":
        return np.array(math.prod(shape), np.int64)
    return np.array(shape[node.get("start", 0) : node.get("end", None)], np.int64)


def _gather(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    data, index = arrays[:2]
    axis = node.get("axis", 0)
    charge(data.size // max(1, data.shape[axis]) * index.size, data.itemsize)
    return np.take(data, index.astype(np.int64), axis)


def _concat(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    charge(sum(array.size for array in arrays), arrays[0].itemsize)
    return np.concatenate(arrays, node["axis"])


def _slice(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    data = arrays[0]
    index = [slice(None)] * data.ndim
    for axis, *bounds in node.slices(arrays, data.shape):
        index[axis] = slice(*bounds)
    return data[tuple(index)]


def _split(node: OnnxNode, arrays: Arrays, charge: Charge) -> list[np.ndarray]:
    axis = node.get("axis", 0)
    sizes = node.split_sizes(arrays, arrays[0].shape[axis])
    return np.split(arrays[0], np.cumsum(sizes)[:-1], axis)


def _squeeze(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    axes = node.axes_of(arrays)
    return np.squeeze(arrays[0], None if axes is None else tuple(axes))


def _unsqueeze(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    return np.expand_dims(arrays[0], tuple(node.axes_of(arrays) or ()))


def _reshape(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    data, dims = arrays[0], node.ints_of(arrays, 1, "shape")
    copies = not node.get("allowzero", 0)
    return data.reshape([data.shape[i] if d == 0 and copies else d for i, d in enumerate(dims)])


def _flatten(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    axis = node.get("axis", 1)
    return arrays[0].reshape(math.prod(arrays[0].shape[:axis]), -1)


def _transpose(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    return np.transpose(arrays[0], node.get("perm", None))


def _expand(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    shape = np.broadcast_shapes(arrays[0].shape, tuple(int(size) for size in arrays[1]))
    charge(math.prod(shape), arrays[0].itemsize)
    return np.broadcast_to(arrays[0], shape)


def _tile(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    repeats = [int(count) for count in arrays[1]]
    charge(arrays[0].size * math.prod(repeats), arrays[0].itemsize)
    return np.tile(arrays[0], repeats)


def _constant_of_shape(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    shape = [int(size) for size in arrays[0]]
    value = node.get("value", np.zeros(1, np.float32))
    charge(math.prod(shape), value.itemsize)
    return np.full(shape, value.reshape(-1)[0], value.dtype)


def _range(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    start, limit, delta = (array.reshape(-1)[0] for array in arrays)
    count = max(0, math.ceil((float(limit) - float(start)) / float(delta))) if delta else -1
    if count < 0:
        raise ValueError("a step of 0")
    charge(count, 8)
    return (start + np.arange(count) * delta).astype(start.dtype)


def _matmul(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    a, b = arrays[:2]
    work = a.size * (b.shape[-1] if b.ndim > 1 else 1)
    charge(work // 64 + a.size + b.size, 4)
    return np.matmul(a, b)


def _dequantize(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    data, scale, *zero = arrays
    charge(data.size, 4)
    shape = [1] * data.ndim
    if scale.size > 1:
        shape[node.get("axis", 1)] = -1
    origin = zero[0].astype(np.int64).reshape(shape) if zero and zero[0] is not None else 0
    return ((data.astype(np.int64) - origin) * scale.reshape(shape)).astype(np.float32)


def _nonzero(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    charge(arrays[0].size * max(1, arrays[0].ndim), 8)
    return np.array(np.nonzero(arrays[0]), np.int64)


def _scatter_nd(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    data, index, updates = arrays[:3]
    if node.get("reduction", "none") not in ("none", b"none"):
        raise ValueError("a reduction")
    charge(data.size, data.itemsize)
    result = data.copy()
    result[tuple(np.moveaxis(index.astype(np.int64), -1, 0))] = updates
    return result


def _constant(node: OnnxNode, arrays: Arrays, charge: Charge) -> np.ndarray:
    for key, dtype in (("value_float", np.float32), ("value_int", np.int64)):
        if key in node:
            return np.array(node[key], dtype)
    for key, dtype in (("value_floats", np.float32), ("value_ints", np.int64)):
        if key in node:
            return np.array(list(node[key]), dtype)
    return node["value"]


_OTHERS: dict[str, Callable[[OnnxNode, Arrays, Charge], np.ndarray | list[np.ndarray]]] = {
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DequantizeLinear": _dequantize,
    "Div": _div,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "MatMul": _matmul,
    "Max": _extreme,
    "Min": _extreme,
    "Mod": _mod,
    "NonZero": _nonzero,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Size": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
