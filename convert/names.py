"""How blobs are named in files that keep one flat table of tensors: `conv1_1.0`, `conv1_1.1`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from caffe_bridge.errors import WeightsError

_MODULE_KEY = re.compile(r"layers\.([^.]+)\.blobs\.(\d{1,6})")
_INDEX = re.compile(r"0|[1-9]\d{0,5}")


def key(layer: str, index: int) -> str:
    """The name of a layer's blob."""
    return f"{layer}.{index}"


def split_key(name: str) -> tuple[str, int]:
    """The layer and the index that `key` made a name of. Raises WeightsError for any other name."""
    layer, dot, index = name.rpartition(".")
    if not dot or not _INDEX.fullmatch(index):
        raise WeightsError(f"tensor '{name}' is no layer's blob; tensors are named LAYER.INDEX, as conv1_1.0")
    return layer, int(index)


def split_keys(names: Iterable[str]) -> dict[str, tuple[str, int]]:
    """Each name's layer and index; understands the names of `Net.state_dict()` too when all of them are such.

    Raises WeightsError naming the first that is neither.
    """
    names = list(names)
    matches = [_MODULE_KEY.fullmatch(name) for name in names]
    if all(matches):
        return {m[0]: (m[1].replace("%2E", ".").replace("%25", "%"), int(m[2])) for m in matches if m}
    return {name: split_key(name) for name in names}
