"""One node of an ONNX graph, with what its attributes and constant inputs say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, numpy_helper

from caffe_bridge.convert.caffe_import.problems import Unsupported

_SIMPLE = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
}


class OnnxNode:
    """A node's operator, version and attributes.

    Args:
        proto: the node.
        opset: the version of the standard operators.

    Raises Unsupported for attributes that are graphs, types or malformed.
    """

    def __init__(self, proto: onnx.NodeProto, opset: int):
        self.operator: str = proto.op_type
        self.opset = opset
        self.outputs = len(proto.output)
        self._attributes = {attribute.name: _value(attribute) for attribute in proto.attribute}

    def __contains__(self, name: str) -> bool:
        return name in self._attributes

    def __getitem__(self, name: str) -> Any:
        if name not in self._attributes:
            raise Unsupported(f"lacks the attribute '{name}'")
        return self._attributes[name]

    def get(self, name: str, default: Any) -> Any:
        """An attribute, or the default."""
        return self._attributes.get(name, default)

    def ints(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """A list of integers."""
        found = self.get(name, None)
        return tuple(default) if found is None else tuple(int(number) for number in found)

    def padding(self, sizes: Sequence[int], window: Sequence[int], stride: Sequence[int]) -> tuple[Any, Any]:
        """(begin, end) of a convolution or pooling along axes of these sizes, for windows of this extent."""
        count = len(window)
        mode = self.get("auto_pad", "NOTSET")
        if mode in ("NOTSET", ""):
            pads = self.ints("pads", [0] * 2 * count)
            if len(pads) != 2 * count:
                raise Unsupported(f"has {len(pads)} pads for {count} axes")
            return pads[:count], pads[count:]
        if mode == "VALID":
            return (0,) * count, (0,) * count
        if mode not in ("SAME_UPPER", "SAME_LOWER"):
            raise Unsupported(f"has auto_pad '{mode}'")
        totals = [
            max(0, (-(-size // step) - 1) * step + extent - size) for size, extent, step in zip(sizes, window, stride)
        ]
        less, more = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
        return (less, more) if mode == "SAME_UPPER" else (more, less)

    # -- attributes that became inputs -------------------------------------------------------------------

    def ints_of(self, arrays: Sequence[Any], index: int, name: str) -> list[int]:
        """Integers that are a constant input or, in older versions, an attribute."""
        found = self.optional_ints(arrays, index, name)
        if found is None:
            raise Unsupported(f"lacks '{name}', or it is computed at run time", "export with fixed shapes")
        return found

    def optional_ints(self, arrays: Sequence[Any], index: int, name: str) -> list[int] | None:
        """The same, None where left out."""
        if index < len(arrays) and arrays[index] is not None:
            return [int(number) for number in np.asarray(arrays[index]).reshape(-1)]
        return list(self.ints(name, ())) if name in self else None

    def axes_of(self, arrays: Sequence[Any]) -> list[int] | None:
        """The axes of a reduction, Squeeze or Unsqueeze; None where left out."""
        found = self.optional_ints(arrays, 1, "axes")
        return found if found or self.operator == "Unsqueeze" else None

    def limits(self, arrays: Sequence[Any]) -> tuple[float, float]:
        """Clip's limits, infinite where left out."""
        bounds = []
        for index, name, default in ((1, "min", -math.inf), (2, "max", math.inf)):
            given = arrays[index] if index < len(arrays) else None
            bound = self.get(name, default) if given is None else np.asarray(given).reshape(-1)[0]
            # The largest float32 is how older exporters write infinity.
            bounds.append(math.copysign(math.inf, bound) if abs(bound) >= 3.4e38 else float(bound))
        return bounds[0], bounds[1]

    def slices(self, arrays: Sequence[Any], shape: Sequence[int]) -> Iterator[tuple[int, int, int | None, int]]:
        """(axis, start, stop, step) of a Slice of a value of this shape, where the stop may be None."""
        starts = self.ints_of(arrays, 1, "starts")
        ends = self.ints_of(arrays, 2, "ends")
        axes = self.optional_ints(arrays, 3, "axes") or list(range(len(starts)))
        steps = self.optional_ints(arrays, 4, "steps") or [1] * len(starts)
        if not len(starts) == len(ends) == len(axes) == len(steps):
            raise Unsupported("has starts, ends, axes and steps of different lengths")
        for start, end, axis, step in zip(starts, ends, axes, steps):
            if not -len(shape) <= axis < len(shape) or not step:
                raise Unsupported(f"slices axis {axis} of {len(shape)} by steps of {step}")
            size = shape[axis]
            start, stop, step = slice(start, end, step).indices(size)
            yield axis % len(shape), start, stop if stop >= 0 else None, step

    def split_sizes(self, arrays: Sequence[Any], size: int) -> list[int]:
        """The parts of a Split of an axis of this size."""
        found = self.optional_ints(arrays, 1, "split")
        if found:
            return found
        count = self.get("num_outputs", self.outputs)
        if count < 1 or size < count:
            raise Unsupported(f"splits an axis of {size} into {count}")
        part = -(-size // count)
        return [part] * (count - 1) + [size - part * (count - 1)]


def _value(attribute: AttributeProto) -> Any:
    if attribute.type in _SIMPLE:
        value = getattr(attribute, _SIMPLE[attribute.type])
        return value if isinstance(value, (int, float)) else list(value)
    if attribute.type == AttributeProto.STRING:
        return attribute.s.decode("utf-8", "replace")
    if attribute.type == AttributeProto.TENSOR:
        return tensor_array(attribute.t)
    if attribute.type == AttributeProto.STRINGS:
        return [text.decode("utf-8", "replace") for text in attribute.strings]
    raise Unsupported(f"attribute '{attribute.name}' is a graph, a type or sparse", "Caffe has no control flow")


def tensor_array(tensor: onnx.TensorProto) -> np.ndarray:
    """The numbers of a tensor that lie in the model. Raises Unsupported for others, and for wrong sizes."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise Unsupported(f"tensor '{tensor.name}' lies in another file", "only initializers may")
    try:
        array = numpy_helper.to_array(tensor)
    except Exception as error:  # numpy_helper raises whatever its parts raise
        raise Unsupported(f"tensor '{tensor.name}' is malformed: {error}") from error
    if array.dtype.kind not in "biuf":
        # bfloat16, float8 and packed types are NumPy extensions of kind V
        if array.dtype.kind != "V" or array.dtype.names:
            raise Unsupported(f"tensor '{tensor.name}' holds no numbers")
        array = array.astype(np.float32)
    return array
