"""pycaffe's `io`: messages to arrays and back, images to a net's input.

Images are (height, width, channels) arrays; blobs and Datums are (channels, height, width).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from caffe_bridge import schema
from caffe_bridge.errors import CaffeError

GRAY_FROM_BGR = (0.0721, 0.7154, 0.2125)


def blobproto_to_array(blob: Any, return_diff: bool = False) -> np.ndarray:
    """The data, or the diff, of a BlobProto as a float64 array of its shape.

    Raises:
        ValueError: the shape is not that of the values.
    """
    if return_diff:
        values = np.array(blob.diff or blob.double_diff)
    else:
        values = np.array(blob.data or blob.double_data)
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        return values.reshape(blob.num, blob.channels, blob.height, blob.width)
    return values.reshape(tuple(blob.shape.dim))


def array_to_blobproto(arr: np.ndarray, diff: np.ndarray | None = None) -> Any:
    """A BlobProto of an array of any shape, with a diff of that shape if one is given."""
    blob = schema.BlobProto(data=arr.astype(float).ravel())
    blob.shape.dim.extend(arr.shape)
    if diff is not None:
        blob.diff.extend(diff.astype(float).ravel())
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[np.ndarray]) -> bytes:
    """Arrays as a serialised BlobProtoVector."""
    return schema.BlobProtoVector(blobs=[array_to_blobproto(arr) for arr in arraylist]).SerializeToString()


def blobprotovector_str_to_arraylist(str: bytes) -> list[np.ndarray]:
    """The arrays in a serialised BlobProtoVector."""
    return [blobproto_to_array(blob) for blob in schema.BlobProtoVector.FromString(str).blobs]


def array_to_datum(arr: np.ndarray, label: int | None = None) -> Any:
    """A Datum of a (C, H, W) array: bytes if it is uint8, floats otherwise.

    Raises:
        ValueError: the array has not three axes.
    """
    if arr.ndim != 3:
        raise ValueError(f"a Datum holds (channels, height, width), not an array of shape {arr.shape}")
    channels, height, width = arr.shape
    datum = schema.Datum(channels=channels, height=height, width=width)
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(float).ravel())
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: Any) -> np.ndarray:
    """The (C, H, W) array in a Datum: uint8 if it holds bytes, float64 otherwise.

    Raises:
        ValueError: the Datum holds an encoded picture, or its shape is not that of its values.
    """
    if datum.encoded:
        raise ValueError("the Datum holds an encoded picture; decode datum.data with an image library")
    values = np.frombuffer(datum.data, np.uint8).copy() if datum.data else np.array(datum.float_data, float)
    return values.reshape(datum.channels, datum.height, datum.width)


class Transformer:
    """Turns (H, W, K) images into the (K, H, W) arrays that a net's inputs take, and back.

    The steps, each made only if it was set: resize, transpose, channel swap, raw scale, mean, input scale.

    Args:
        inputs: input blob name to its (N, K, H, W) shape.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]):
        self.inputs = inputs
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def _check_input(self, in_: str) -> None:
        if in_ not in self.inputs:
            raise CaffeError(f"'{in_}' is not one of the net's inputs: {', '.join(self.inputs)}")

    def preprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """The float32 (K, H, W) array that input `in_` takes, of a (H', W', K) image; the image is left as it is."""
        self._check_input(in_)
        values = data.astype(np.float32)
        size = tuple(self.inputs[in_][2:])
        if values.shape[:2] != size:
            values = resize_image(values, size)
        if in_ in self.transpose:
            values = values.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            values = values[self.channel_swap[in_], :, :]
        if in_ in self.raw_scale:
            values *= self.raw_scale[in_]
        if in_ in self.mean:
            values -= self.mean[in_]
        if in_ in self.input_scale:
            values *= self.input_scale[in_]
        return values

    def deprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """The image that `preprocess` would turn into `data`, at the input's size."""
        self._check_input(in_)
        values = data.copy().squeeze()
        if in_ in self.input_scale:
            values /= self.input_scale[in_]
        if in_ in self.mean:
            values += self.mean[in_]
        if in_ in self.raw_scale:
            values /= self.raw_scale[in_]
        if in_ in self.channel_swap:
            values = values[np.argsort(self.channel_swap[in_]), :, :]
        if in_ in self.transpose:
            values = values.transpose(np.argsort(self.transpose[in_]))
        return values

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of axes; (2, 0, 1) turns (H, W, K) into (K, H, W)."""
        self._check_input(in_)
        if len(order) != len(self.inputs[in_]) - 1:
            raise CaffeError(f"transpose needs {len(self.inputs[in_]) - 1} axes for input '{in_}', not {len(order)}")
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of channels, after the transpose; (2, 1, 0) turns RGB into BGR."""
        self._check_input(in_)
        if len(order) != self.inputs[in_][1]:
            raise CaffeError(f"input '{in_}' has {self.inputs[in_][1]} channels to order, not {len(order)}")
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """Multiply before the mean is subtracted; 255 for images in [0, 1] and nets that expect [0, 255]."""
        self._check_input(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: np.ndarray) -> None:
        """Subtract a mean: one number per channel, or a (K, H, W) image, resized to the input if need be.

        Raises:
            ValueError: the mean has another number of channels, or of axes.
        """
        self._check_input(in_)
        channels, *size = self.inputs[in_][1:]
        if mean.ndim == 1:
            mean = mean[:, np.newaxis, np.newaxis]
        elif mean.ndim == 2:
            mean = mean[np.newaxis]
        elif mean.ndim != 3:
            raise ValueError(f"a mean has one to three axes, not shape {mean.shape}")
        if mean.shape[0] != channels:
            raise ValueError(f"a mean of {mean.shape[0]} channels for input '{in_}' of {channels}")
        if mean.shape[1:] not in ((1, 1), tuple(size)):
            mean = resize_image(mean.transpose(1, 2, 0), size).transpose(2, 0, 1)
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """Multiply after the mean was subtracted."""
        self._check_input(in_)
        self.input_scale[in_] = scale


def load_image(filename: str | Path, color: bool = True) -> np.ndarray:
    """An image file as float32 in [0, 1]: (H, W, 3) in RGB, or (H, W, 1) in gray. Alpha is dropped.

    Raises:
        OSError: the file cannot be read.
        CaffeError: it is no image.
    """
    import cv2

    encoded = np.frombuffer(Path(filename).read_bytes(), np.uint8)
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED) if encoded.size else None
    except cv2.error as error:
        raise CaffeError(f"{filename}: cannot be decoded: {error.err}") from error
    if image is None:
        raise CaffeError(f"{filename}: not an image that can be decoded")
    if image.dtype in (np.uint8, np.uint16):
        image = image / (255 if image.dtype == np.uint8 else 65535)
    if image.ndim == 2:
        image = image[:, :, np.newaxis]
        return (np.tile(image, (1, 1, 3)) if color else image).astype(np.float32)
    bgr = image[:, :, :3]
    if color:
        return bgr[:, :, ::-1].astype(np.float32)
    return (bgr @ np.array(GRAY_FROM_BGR))[:, :, np.newaxis].astype(np.float32)


def resize_image(im: np.ndarray, new_dims: Iterable[int], interp_order: int = 1) -> np.ndarray:
    """Resize a (H, W, K) image to (height, width), without smoothing.

    One and three channels are resized as scikit-image did it in pycaffe's days: pixel centres are aligned, and what
    lies outside is as dark as the image's smallest value, so enlarging darkens the border. Other numbers of channels
    go through scipy's `zoom`, which aligns the centres of the corner pixels.

    Args:
        interp_order: 1 for bilinear; other orders are scipy's splines.

    Returns:
        float32 (height, width, K).
    """
    from scipy.ndimage import zoom

    height, width = (int(size) for size in new_dims)
    factors = (height / im.shape[0], width / im.shape[1], 1)
    if im.shape[-1] not in (1, 3):
        return zoom(im, factors, order=interp_order).astype(np.float32)
    if im.dtype.kind != "f":
        im = im.astype(float)
    low, high = im.min(), im.max()
    if not high > low:
        return np.full((height, width, im.shape[-1]), low, np.float32)
    unit = ((im - low) / (high - low)).astype(float)
    if interp_order == 1:
        resized = _interpolate(_interpolate(unit.swapaxes(0, 1), width).swapaxes(0, 1), height)
    else:
        resized = zoom(unit, factors, order=interp_order, mode="grid-constant", grid_mode=True).clip(0, 1)
    return (resized * (high - low) + low).astype(np.float32)


def _interpolate(values: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation to `size` rows with centres aligned and zeros outside."""
    at = (np.arange(size) + 0.5) * (len(values) / size) - 0.5
    below = np.floor(at).astype(int)
    part = (at - below).reshape(-1, 1, 1)
    padded = np.pad(values, ((1, 1), (0, 0), (0, 0)))
    return padded[below + 1] * (1 - part) + padded[below + 2] * part


def oversample(images: Sequence[np.ndarray] | np.ndarray, crop_dims: Iterable[int]) -> np.ndarray:
    """Ten crops of each (H, W, K) image: the corners, the centre, and the mirror images of these five.

    Args:
        images: all of one shape.
        crop_dims: (height, width) of the crops.

    Returns:
        float32 (10 * N, height, width, K).

    Raises:
        CaffeError: the crops are larger than the images.
    """
    (height, width), (rows, columns) = images[0].shape[:2], (int(size) for size in crop_dims)
    if rows > height or columns > width:
        raise CaffeError(f"crops of {rows} x {columns} do not fit into images of {height} x {width}")
    corners = [(y, x) for y in (0, height - rows) for x in (0, width - columns)]
    places = [*corners, (int(height / 2 - rows / 2), int(width / 2 - columns / 2))]
    crops = np.array([[image[y : y + rows, x : x + columns] for y, x in places] for image in images], np.float32)
    both = np.concatenate([crops, crops[:, :, :, ::-1]], axis=1)
    return both.reshape(-1, *both.shape[2:])
