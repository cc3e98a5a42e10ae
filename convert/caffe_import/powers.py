"""Power layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from caffe_bridge.convert.caffe_import.separation import apart

if TYPE_CHECKING:
    from caffe_bridge.convert.caffe_import.writer import NetWriter


def powered(writer: NetWriter, blob: str, suffix: str, **attributes: float) -> str:
    """(shift + scale x)^power.

    OpenCV joins what scales and shifts with a power before it, and forgets that the power comes in between; a layer
    that changes nothing keeps them apart.
    """
    shape = writer.shape(blob)
    defaults = (("power", 1), ("scale", 1), ("shift", 0))
    param = {key: attributes[key] for key, default in defaults if attributes.get(key, default) != default}
    if "power" not in param and writer.dialect.joins_powers and writer.is_power(blob):
        blob = apart(writer, blob)
    fields: dict[str, Any] = {"power_param": param} if param else {}
    return writer.add("Power", [blob], shape, suffix, **fields)
