"""Pooling and SPP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caffe_bridge.convert.torch_export.registry import WrittenLayer, writes
from caffe_bridge.convert.torch_export.source import ModuleSource, call, side
from caffe_bridge.layers.pooling import Windows

_METHODS = {0: "Max", 1: "Avg", 2: "Stochastic"}


@writes("Pooling")
def pooling(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.MaxPool2d and nn.AvgPool2d where they pool the windows Caffe pools, else a module that pads first."""
    layer, windows = node.layer, node.layer.windows
    method = _METHODS[layer.method]
    if layer.whole_image and not layer.masked and method != "Stochastic":
        return code.module(f"nn.Adaptive{method}Pool2d(1)", *bottoms)
    if layer.masked:
        geometry = _geometry(windows) if not layer.whole_image else {}
        geometry["layer"] = code.note(node)
        return code.module(_made(code, "MaxPool2dWithMask", windows, geometry, layer.whole_image), *bottoms)
    if method == "Stochastic":
        geometry = _geometry(windows) if not layer.whole_image else {}
        return code.module(_made(code, "StochasticPool2d", windows, geometry, layer.whole_image), *bottoms)
    if _torch_pools_alike(windows):
        own = {"stride": side(windows.stride), "padding": side(windows.pad, 0), "ceil_mode": windows.ceil or None}
        if own["stride"] == side(windows.kernel):
            del own["stride"]
        return code.module(call(f"nn.{method}Pool2d", side(windows.kernel), **own), *bottoms)
    return code.module(_made(code, f"Wide{method}Pool2d", windows, _geometry(windows), False), *bottoms)


def _made(code: ModuleSource, part: str, windows: Windows, geometry: dict[str, Any], whole_image: bool) -> str:
    return call(code.part(part), None if whole_image else tuple(windows.kernel), **geometry)


def _geometry(windows: Windows) -> dict[str, Any]:
    pad = tuple(windows.pad) if any(windows.pad) else None
    return {"stride": tuple(windows.stride), "pad": pad, "ceil": None if windows.ceil else False}


def _torch_pools_alike(windows: Windows) -> bool:
    """Whether torch pools the same windows in images of every size; see `Windows.fits_torch`."""
    if any(2 * pad > kernel for pad, kernel in zip(windows.pad, windows.kernel)):
        return False
    small_steps = all(stride <= kernel for stride, kernel in zip(windows.stride, windows.kernel))
    return any(windows.pad) or small_steps


@writes("SPP")
def spp(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Poolings of several sizes, one after another."""
    method = {"MAX": "WideMaxPool2d", "AVE": "WideAvgPool2d", "STOCHASTIC": "StochasticPool2d"}[node.layer.method]
    return f"{code.part('pyramid_pool')}({bottoms[0]}, {node.layer.height}, {code.part(method)})"
