"""What keeps OpenCV from joining layers that it joins wrongly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from caffe_bridge.convert.caffe_import.shapes import reshaped

if TYPE_CHECKING:
    from caffe_bridge.convert.caffe_import.writer import NetWriter


def apart(writer: NetWriter, blob: str) -> str:
    """A layer that changes nothing between what comes before and what comes after."""
    param: dict[str, Any] = {"operation": "MAX"}
    return writer.add("Eltwise", [blob, blob], writer.shape(blob), "apart", eltwise_param=param)


def per_channel(writer: NetWriter, blob: str, axis: int = 1, ndim: int = 1) -> str:
    """The blob that a layer with one number for each place along some axes may read.

    OpenCV merges such a layer with the filter before it as if the numbers were of the filter's outputs, with a
    Deconvolution as if that had no groups, and with an Eltwise of fewer than four axes as if there were one channel. A
    blob of few axes comes back as an image.
    """
    if not writer.dialect.merges_layers:
        return blob
    shape, made = writer.shape(blob), writer.filter_before(blob)
    joined = len(shape) < 4 and writer.is_eltwise(blob)
    if made is not None:
        outputs = made.inner_product_param.axis if made.type == "InnerProduct" else 1
        grouped = made.type == "Deconvolution" and made.convolution_param.group > 1
        joined = (axis, ndim) != (outputs, 1) or grouped
    if not joined:
        return blob
    if len(shape) < 4 and axis == ndim == 1:
        return reshaped(writer, blob, (*shape[:2], 1, math.prod(shape[2:])), "image")
    return apart(writer, blob)
