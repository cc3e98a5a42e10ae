"""From an image to a net's input: means subtracted and sides scaled, as Fast R-CNN, Faster R-CNN and MNC do it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from caffe_bridge.config import cfg
from caffe_bridge.errors import CaffeError

MAX_PIXELS = 2**28  # of one scaled image; more is a mistake in SCALES or an image a pixel wide


def image_scale(height: int, width: int, target_size: float, max_size: float) -> float:
    """The factor that makes the short side `target_size`, or less where the long side would exceed `max_size`."""
    scale = target_size / min(height, width)
    if np.round(scale * max(height, width)) > max_size:
        scale = max_size / max(height, width)
    return scale


def scale_image(image: np.ndarray, target_size: float, max_size: float) -> tuple[np.ndarray, float]:
    """An image [H, W, 3] (blue, green, red, 0 to 255) less cfg.PIXEL_MEANS, resized bilinearly by a factor.

    Args:
        target_size, max_size: pixels of the scaled image's short side, and the most of its long side.

    Returns:
        The scaled image, float32 [h, w, 3], and the factor from image to scaled image.

    Raises:
        CaffeError: the array is not a colour image, or the scaled image would be empty or absurdly large.
    """
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise CaffeError(f"an image is an array (height, width, 3) of blue, green and red, not {image.shape}")
    height, width = image.shape[:2]
    scale = image_scale(height, width, target_size, max_size)
    new_height, new_width = (int(np.round(side * scale)) for side in (height, width))
    if min(new_height, new_width) < 1 or new_height * new_width > MAX_PIXELS:
        raise CaffeError(f"an image of {width} x {height} pixels scaled by {scale:g} is {new_width} x {new_height}")
    centred = image.astype(np.float32)
    centred -= cfg.PIXEL_MEANS
    return cv2.resize(centred, None, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR), scale


def as_blob(images: Sequence[np.ndarray]) -> np.ndarray:
    """Scaled images [h, w, 3] as one blob float32 [N, 3, H, W], the smaller ones with zeros at the right and bottom."""
    height, width = np.max([image.shape[:2] for image in images], axis=0)
    blob = np.zeros((len(images), 3, height, width), np.float32)
    for place, image in zip(blob, images):
        place[:, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    return blob
