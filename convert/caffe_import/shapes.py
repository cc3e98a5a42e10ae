"""Reshape layers as a person would write them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from caffe_bridge.layers.base import Shape

if TYPE_CHECKING:
    from caffe_bridge.convert.caffe_import.writer import NetWriter


def reshaped(writer: NetWriter, blob: str, shape: Shape, suffix: str) -> str:
    """A blob in another shape, itself if it has it: Flatten, or a Reshape that names only the axes that change.

    Where the first axis changes, its size is left to Caffe, so that the net may be given another batch.
    """
    shape = tuple(shape)
    if writer.shape(blob) != shape:
        blob = writer.before_reshape(blob)
    found = writer.shape(blob)
    if found == shape:
        return blob
    first = 0
    while first < min(len(found), len(shape)) and found[first] == shape[first]:
        first += 1
    rest = math.prod(found[first:])
    if len(shape) == first + 1 and len(found) > first and shape[first] == rest:
        fields: dict[str, Any] = {} if first == 1 else {"flatten_param": {"axis": first}}
        return writer.add("Flatten", [blob], shape, suffix, **fields)
    if len(shape) == first > 1 and rest == 1:
        fields = {} if first == 2 else {"flatten_param": {"axis": first - 1}}
        return writer.add("Flatten", [blob], shape, suffix, **fields)
    last = 0
    while last < min(len(found), len(shape)) - first and found[-1 - last] == shape[-1 - last]:
        last += 1
    if first == 0 and len(shape) > 1:
        return writer.add("Reshape", [blob], shape, suffix, reshape_param={"shape": {"dim": [-1, *shape[1:]]}})
    if last and len(found) - last > first:
        param = {
            "axis": first,
            "num_axes": len(found) - last - first,
            "shape": {"dim": shape[first : len(shape) - last]},
        }
        return writer.add("Reshape", [blob], shape, suffix, reshape_param=param)
    param = {"shape": {"dim": [*[0] * first, *shape[first:]]}}
    return writer.add("Reshape", [blob], shape, suffix, reshape_param=param)
