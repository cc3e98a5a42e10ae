"""Image files as arrays, read as Caffe reads them: through OpenCV, 8 bits a channel, channels in the order B, G, R."""

from __future__ import annotations

import os

import cv2
import numpy as np

from caffe_bridge.errors import LayerError

_MAX_VALUES = 2**31 - 1


def decode_image(data: bytes, name: str, color: bool | None = True) -> np.ndarray:
    """Decode a file's bytes to pixels (height, width, channels).

    Args:
        data: PNG, JPEG or whatever else OpenCV knows.
        name: what errors call the image.
        color: True makes 3 channels, False 1, None leaves what the file has.

    Raises:
        LayerError: the bytes are no image, or one of more than 8 bits a channel.
    """
    flag = cv2.IMREAD_UNCHANGED if color is None else cv2.IMREAD_COLOR if color else cv2.IMREAD_GRAYSCALE
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as error:
        raise LayerError(f"{name}: cannot be decoded: {error.err or error}") from error
    if image is None:
        raise LayerError(f"{name}: cannot be decoded: {len(data)} bytes that are no image OpenCV knows")
    if image.dtype != np.uint8:
        raise LayerError(f"{name}: is an image of {image.dtype} values; Caffe takes 8 bits a channel")
    return image if image.ndim == 3 else image[:, :, None]


def read_bytes(path: str) -> bytes:
    """The bytes of an image file. Raises LayerError when it cannot be read or is no regular file."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise LayerError(f"image {path}: is not a regular file")
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise LayerError(f"image {path}: {getattr(error, 'strerror', None) or error}") from error


def read_image(path: str, height: int = 0, width: int = 0, color: bool = True) -> np.ndarray:
    """The pixels (height, width, 3 or 1) of an image file, resized bilinearly if height and width are not 0.

    Raises LayerError, naming the file, when it cannot be read, decoded or resized.
    """
    image = decode_image(read_bytes(path), f"image {path}", color)
    return resize(image, height, width) if height > 0 and width > 0 else image


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels (height, width, channels) at another size, by OpenCV's bilinear rule.

    Raises LayerError when OpenCV cannot make an image of that size.
    """
    try:
        if height * width * image.shape[2] > _MAX_VALUES:
            raise OverflowError
        made = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    except (cv2.error, OverflowError) as error:
        raise LayerError(f"{image.shape[0]}x{image.shape[1]} pixels cannot be resized to {height}x{width}") from error
    return made if made.ndim == 3 else made[:, :, None]


def encode_image(image: np.ndarray, kind: str, name: str) -> bytes:
    """Pixels (height, width, channels) as a file of a kind ("png", "jpg", ...).

    Raises LayerError, calling the image `name`, when OpenCV cannot write such files.
    """
    try:
        good, data = cv2.imencode(f".{kind}", image)
    except cv2.error as error:
        raise LayerError(f"{name}: cannot be encoded as '{kind}': {error.err or error}") from error
    if not good:
        raise LayerError(f"{name}: cannot be encoded as '{kind}'")
    return data.tobytes()
