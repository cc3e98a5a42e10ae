"""pycaffe's `coord_map`: where the cells of one blob lie in another, and Crop layers that follow from it.

A coordinate map is (axis, scale, shift): cell i of a layer's bottom, along every axis from `axis` + 1 on, lies at
`scale * i + shift` of its top. `axis` is None for a layer that leaves coordinates alone. Scale and shift are numbers,
or arrays with one entry per axis (or a single one for all).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from caffe_bridge.errors import CaffeError
from caffe_bridge.pycaffe.net_spec import Function, Top, layers

CoordMap = tuple[Any, Any, Any]

IDENTITY: CoordMap = (None, 1, 0)

PASS_THROUGH_LAYERS = [
    "AbsVal",
    "BatchNorm",
    "Bias",
    "BNLL",
    "Dropout",
    "Eltwise",
    "ELU",
    "Log",
    "LRN",
    "Exp",
    "MVN",
    "Power",
    "ReLU",
    "PReLU",
    "Scale",
    "Sigmoid",
    "Split",
    "TanH",
    "Threshold",
]


class UndefinedMapException(CaffeError):
    """The layer's outputs do not lie at places of its input."""


class AxisMismatchException(CaffeError):
    """Two maps count their axes differently and cannot be composed."""


class CropException(CaffeError, AssertionError):
    """The two tops do not allow a crop; an AssertionError too, which is what pycaffe raises."""


def conv_params(fn: Function) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """(axis, stride, kernel extent with dilation, pad) of a convolution, deconvolution, Im2col or pooling.

    Raises:
        CropException: sizes are given as kernel_h, stride_w, ... .
        UndefinedMapException: there is no kernel size (global pooling).
    """
    params = fn.params.get("convolution_param", fn.params.get("pooling_param", fn.params))
    legacy = [f"{what}_{side}" for what in ("kernel", "stride", "pad") for side in "hw"]
    found = [name for name in legacy if name in params]
    if found:
        raise CropException(f"{fn.type_name}: no coordinate map of legacy parameters ({', '.join(found)})")
    if "kernel_size" not in params:
        raise UndefinedMapException(f"{fn.type_name} without kernel_size")
    kernel, stride, pad, dilation = (
        np.array(params.get(name, default), ndmin=1)
        for name, default in (("kernel_size", None), ("stride", 1), ("pad", 0), ("dilation", 1))
    )
    return params.get("axis", 1), stride, (kernel - 1) * dilation + 1, pad


def crop_params(fn: Function) -> tuple[int, np.ndarray]:
    """(first cropped axis, offsets) of a Crop layer."""
    params = fn.params.get("crop_param", fn.params)
    return params.get("axis", 2), np.array(params.get("offset", 0), ndmin=1)


def coord_map(fn: Function) -> CoordMap:
    """The map from a layer's bottom to its top.

    Raises:
        UndefinedMapException: for a layer that is not convolution-like, pointwise or Crop.
    """
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, kernel, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (kernel - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, kernel, pad = conv_params(fn)
        return axis, stride, (kernel - 1) / 2 - pad
    if fn.type_name in PASS_THROUGH_LAYERS:
        return IDENTITY
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset
    raise UndefinedMapException(f"{fn.type_name} has no coordinate map")


def compose(base_map: CoordMap, next_map: CoordMap) -> CoordMap:
    """`next_map` first, then `base_map`.

    Raises:
        AxisMismatchException: both name an axis, and not the same one.
    """
    axis_base, scale_base, shift_base = base_map
    axis_next, scale_next, shift_next = next_map
    if axis_base is not None and axis_next is not None and axis_base != axis_next:
        raise AxisMismatchException(f"axes {axis_base} and {axis_next}")
    axis = axis_next if axis_base is None else axis_base
    return axis, scale_base * scale_next, scale_base * shift_next + shift_base


def inverse(coord_map: CoordMap) -> CoordMap:
    """The map from a layer's top back to its bottom."""
    axis, scale, shift = coord_map
    return axis, 1 / scale, -shift / scale


def coord_map_from_to(top_from: Top, top_to: Top) -> CoordMap:
    """The map between the cells of two tops, through the nearest blob that both are made from.

    Raises:
        RuntimeError: no such blob can be reached through layers that have a map.
    """
    from_maps = dict(_ancestors(top_from))
    for top, to_map in _ancestors(top_to):
        if top in from_maps:
            return compose(to_map, inverse(from_maps[top]))
    raise RuntimeError("Could not compute map between tops; are they connected by spatial layers?")


def _ancestors(top: Top) -> Iterator[tuple[Top, CoordMap]]:
    """Yields every top that `top` is spatially made from, itself first, and the map from there to `top`."""
    maps = {top: IDENTITY}
    queue = deque([top])
    while queue:
        current = queue.popleft()
        yield current, maps[current]
        try:
            step = coord_map(current.fn)
        except UndefinedMapException:
            continue
        bottoms = current.fn.inputs[:1] if current.fn.type_name == "Crop" else current.fn.inputs
        for bottom in bottoms:
            if bottom not in maps:
                maps[bottom] = compose(maps[current], step)
                queue.append(bottom)


def crop(top_from: Top, top_to: Top) -> Top:
    """A Crop layer that cuts `top_from` to the cells of `top_to`.

    Raises:
        CropException: their scales differ, or the offset is negative or not whole.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    shift = np.array(shift, ndmin=1)
    if not np.all(scale == 1):
        raise CropException(f"scale mismatch on crop (a = {scale})")
    if not np.all(shift <= 0):
        raise CropException(f"cannot crop negative offset (b = {shift})")
    if not np.all(np.round(shift) == shift):
        raise CropException(f"cannot crop noninteger offset (b = {shift})")
    offset = [int(value) for value in -np.round(shift)]
    first = 2 if axis is None else axis + 1
    return layers.Crop(top_from, top_to, crop_param={"axis": first, "offset": offset})
