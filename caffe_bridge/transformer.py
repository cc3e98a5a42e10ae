"""What transform_param asks of images: crop, mirror, mean and scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from caffe_bridge.errors import LayerError, WeightsError
from caffe_bridge.stream import Stream
from caffe_bridge.weights.blobproto import read_blobproto

Shape = tuple[int, ...]


class DataTransformer:
    """Turns images into what the net sees, (image - mean) * scale in float32, cropped and mirrored.

    A crop lies in the middle in TEST, anywhere in TRAIN. `mirror` flips every other image, by chance, in both phases.
    The mean image is as large as the whole image, not as the crop.

    Args:
        param: a TransformationParameter.
        phase: "TRAIN" or "TEST".

    Attributes:
        color: for encoded images: True forces 3 channels, False 1, None keeps what the image has.
        stream: where crops and flips are drawn; None where nothing is.

    Raises:
        LayerError: both mean_file and mean_value, or force_color and force_gray, are given; the mean file is unusable.
    """

    def __init__(self, param: Any, phase: str):
        if param.force_color and param.force_gray:
            raise LayerError("transform_param: force_color and force_gray exclude each other")
        self.color = True if param.force_color else False if param.force_gray else None
        self.crop_size: int = param.crop_size
        self.mirror: bool = param.mirror
        self._random_crop = phase == "TRAIN" and self.crop_size > 0
        self._scale = np.float32(param.scale)
        self._mean_image, self._mean_values = read_mean(param)
        self.stream = Stream() if self.mirror or self._random_crop else None

    def shape(self, image: Sequence[int]) -> Shape:
        """The shape (channels, height, width) made of an image of that shape.

        Raises LayerError when it is smaller than the crop.
        """
        channels, height, width = image
        if min(height, width) < self.crop_size:
            raise LayerError(f"the image is {height}x{width}, smaller than crop_size {self.crop_size}")
        return (channels, self.crop_size or height, self.crop_size or width)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Transform one image (channels, height, width) of uint8 or float32.

        Raises LayerError when it is smaller than the crop, or the mean is that of other images.
        """
        _, height, width = self.shape(image.shape)
        mean = self._mean(image.shape)
        mirrored = self.mirror and self._draw(2) == 1
        spare = image.shape[1] - height, image.shape[2] - width
        if self._random_crop:
            top, left = self._draw(spare[0] + 1), self._draw(spare[1] + 1)
        else:
            top, left = spare[0] // 2, spare[1] // 2
        window = (slice(None), slice(top, top + height), slice(left, left + width))
        values = image[window].astype(np.float32)
        if mean is not None:
            values -= mean[window] if mean.shape == image.shape else mean
        values *= self._scale
        return values[:, :, ::-1] if mirrored else values

    def _draw(self, limit: int) -> int:
        assert self.stream is not None
        return self.stream.below(limit)

    def _mean(self, image: Shape) -> np.ndarray | None:
        if self._mean_image is not None and self._mean_image.shape != image:
            raise LayerError(f"the image has shape {image}, the mean file's {self._mean_image.shape}")
        if self._mean_values is None:
            return self._mean_image
        return mean_per_channel(self._mean_values, image[0])

    def state(self) -> dict[str, Any]:
        """Where the random draws stand."""
        return {"stream": self.stream.state() if self.stream else None}

    def set_state(self, saved: Mapping[str, Any]) -> None:
        """Return to where `state` was taken. Raises ValueError when `saved` is damaged."""
        if self.stream and saved["stream"]:
            self.stream.set_state(saved["stream"])


def read_mean(param: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The mean image (channels, height, width) and the mean values of a TransformationParameter; at most one is there.

    Raises LayerError when both are given, or the file cannot be read.
    """
    values = np.array(param.mean_value, np.float32) if param.mean_value else None
    if not param.HasField("mean_file"):
        return None, values
    if values is not None:
        raise LayerError("transform_param: mean_file and mean_value exclude each other")
    try:
        mean = read_blobproto(param.mean_file).astype(np.float32)
    except WeightsError as error:
        raise LayerError(f"mean_file {error}") from error
    if mean.ndim != 4 or mean.shape[0] < 1:
        raise LayerError(f"mean_file {param.mean_file}: has shape {mean.shape}, not (1, channels, height, width)")
    return mean[0], None


def mean_per_channel(values: np.ndarray, channels: int) -> np.ndarray:
    """Mean values as (channels or 1, 1, 1). Raises LayerError unless there is one, or one per channel."""
    if len(values) not in (1, channels):
        raise LayerError(f"{len(values)} mean_values for {channels} channels; give one, or one per channel")
    return values[:, None, None]
