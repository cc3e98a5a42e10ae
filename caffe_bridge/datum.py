"""Datum, the record of Caffe's databases: an image, raw or encoded, with a label."""

from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from caffe_bridge import schema
from caffe_bridge.errors import LayerError
from caffe_bridge.images import decode_image


def parse_datum(data: bytes, name: str) -> Any:
    """The Datum a record holds. Raises LayerError, calling the record `name`, when it holds none."""
    try:
        return schema.Datum.FromString(data)
    except DecodeError as error:
        raise LayerError(f"{name}: {len(data)} bytes that are no Datum") from error


def datum_pixels(datum: Any, name: str, color: bool | None = None) -> np.ndarray:
    """The values of a Datum (channels, height, width): uint8, or float32 where it holds float_data.

    `color` is for encoded images: True makes 3 channels, False 1, None leaves what the image has.

    Raises LayerError when the image cannot be decoded, or there are more or fewer values than the shape says.
    """
    if datum.encoded:
        return decode_image(datum.data, name, color).transpose(2, 0, 1)
    shape = (datum.channels, datum.height, datum.width)
    if datum.data:
        values = np.frombuffer(datum.data, np.uint8)
    else:
        values = np.asarray(datum.float_data, np.float32)
    if min(shape) <= 0 or values.size != shape[0] * shape[1] * shape[2]:
        raise LayerError(f"{name}: {values.size} values for channels, height and width {shape}")
    return values.reshape(shape)


def make_datum(pixels: np.ndarray, label: int) -> Any:
    """A Datum of raw pixels (height, width, channels)."""
    height, width, channels = pixels.shape
    data = np.ascontiguousarray(pixels.transpose(2, 0, 1)).tobytes()
    return schema.Datum(channels=channels, height=height, width=width, data=data, label=label, encoded=False)
