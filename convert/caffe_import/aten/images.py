"""Padding, resizing and the shuffling of cells: torch's operators as those of operators.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from caffe_bridge.convert.caffe_import.aten.registry import CONVERTERS, Converter, converts
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value


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


def _resizing(mode: str, nearest: str = "torch_nearest") -> Converter:
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
        if mode == "nearest" and nearest == "torch_nearest" and inner == 2:
            # Of images torch goes by the sizes where they are equal, or one is double.
            used = [want / have if want in (have, 2 * have) else f for f, want, have in zip(used, sizes, x.shape)]
        coordinates = nearest if mode == "nearest" else "align_corners" if corners else "half_pixel"
        return b.resize(x, sizes, used, mode, coordinates)

    return resize


for _axes, _linear in (("1d", "linear"), ("2d", "bilinear"), ("3d", "trilinear")):
    CONVERTERS[f"upsample_nearest{_axes}"] = _resizing("nearest")
    CONVERTERS[f"_upsample_nearest_exact{_axes}"] = _resizing("nearest", "torch_nearest_exact")
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
