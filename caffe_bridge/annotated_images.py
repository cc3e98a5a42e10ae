"""SSD's transformations of images together with their boxes: distortion, expansion, sampled crops, resizing, mirroring.

Boxes are (xmin, ymin, xmax, ymax) in fractions of the image, float32 [n, 4].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from caffe_bridge import schema
from caffe_bridge.errors import LayerError
from caffe_bridge.stream import Stream
from caffe_bridge.transformer import mean_per_channel, read_mean

Shape = tuple[int, ...]
Window = tuple[float, float, float, float]

_MAX_VALUES = 2**31

# ResizeParameter.Interp_mode
_INTERPOLATIONS = {
    1: cv2.INTER_LINEAR,
    2: cv2.INTER_AREA,
    3: cv2.INTER_NEAREST,
    4: cv2.INTER_CUBIC,
    5: cv2.INTER_LANCZOS4,
}


class AnnotatedTransformer:
    """Turns images with boxes into what the net sees.

    In this order, each step only where it is asked for: distortion of the colours, expansion on a larger canvas, a
    crop drawn from `samplers`, resizing, mirroring, a crop of crop_size, (image - mean) * scale. Boxes follow; those
    that leave the image, or that emit_constraint does not let through, are dropped. Unlike SSD's, images are not
    compressed as JPEG again between the steps.

    Args:
        param: a TransformationParameter.
        phase: "TRAIN" or "TEST"; crops of crop_size are drawn in TRAIN and central in TEST.
        samplers: BatchSampler messages.

    Raises:
        LayerError: parameters that contradict each other, or that only this library lacks: noise_param, resizing
            other than WARP.
    """

    def __init__(self, param: Any, phase: str, samplers: Sequence[Any] = ()):
        if param.force_color and param.force_gray:
            raise LayerError("transform_param: force_color and force_gray exclude each other")
        self.color = True if param.force_color else False if param.force_gray else None
        self.param, self.phase, self.samplers = param, phase, list(samplers)
        self._resize = _read_resize(param)
        self._crop = (param.crop_size,) * 2 if param.crop_size else (param.crop_h, param.crop_w)
        if bool(self._crop[0]) != bool(self._crop[1]):
            raise LayerError("transform_param: crop_h and crop_w are given together")
        if param.HasField("noise_param"):
            raise LayerError("transform_param: noise_param is not supported; leave it out")
        if param.HasField("expand_param") and not param.expand_param.max_expand_ratio > 1:
            raise LayerError("transform_param: max_expand_ratio must be above 1")
        for sampler in self.samplers:
            _check_sampler(sampler.sampler)
        self._mean_image, self._mean_values = read_mean(param)
        self._stream = Stream()

    def shape(self, image: Shape) -> Shape:
        """The shape (channels, height, width) made of an image of that shape; LayerError if smaller than the crop."""
        height, width = (self._resize.height, self._resize.width) if self._resize else image[1:]
        if height < self._crop[0] or width < self._crop[1]:
            raise LayerError(f"the image is {height}x{width}, smaller than the crop {self._crop[0]}x{self._crop[1]}")
        return (image[0], self._crop[0] or height, self._crop[1] or width)

    def __call__(self, image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Transform an image (channels, height, width) of uint8 or float32.

        Returns:
            float32 values, the boxes left, and the rows of `boxes` they were.
        """
        pixels, rows = image.transpose(1, 2, 0), np.arange(len(boxes))
        if self.param.HasField("distort_param"):
            pixels = self._distort(pixels)
        for step in (self._expansion, self._sample):
            window = step(pixels.shape, boxes)
            if window is not None:
                pixels = self._cut(pixels, window)
                boxes, rows = self._project(boxes, rows, window)
        if self._resize:
            pixels = self._resized(pixels)
        _, height, width = self.shape((pixels.shape[2], *pixels.shape[:2]))
        mirrored = self.param.mirror and self._stream.below(2) == 1
        top, left = (
            self._stream.below(spare + 1) if self.phase == "TRAIN" and self._crop[0] else spare // 2
            for spare in (pixels.shape[0] - height, pixels.shape[1] - width)
        )
        whole = (pixels.shape[1], pixels.shape[0])
        window = (left / whole[0], top / whole[1], (left + width) / whole[0], (top + height) / whole[1])
        boxes, rows = self._project(boxes, rows, window)
        values = self._normalised(pixels.transpose(2, 0, 1), slice(top, top + height), slice(left, left + width))
        if mirrored:
            values = values[:, :, ::-1]
            boxes = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], 1)
        return values, boxes, rows

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._stream.below(1 << 24) / (1 << 24)

    def _chance(self, probability: float) -> bool:
        return self._uniform(0, 1) < probability

    # -- colours -----------------------------------------------------------------------------------------

    def _distort(self, pixels: np.ndarray) -> np.ndarray:
        if pixels.dtype != np.uint8 or pixels.shape[2] != 3:
            raise LayerError("distort_param takes images of three channels and 8 bits")
        param = self.param.distort_param
        steps = [self._brightness, self._saturation, self._hue]
        steps.insert(1 if self._chance(0.5) else 3, self._contrast)
        for step in steps:
            pixels = step(pixels, param)
        if self._chance(param.random_order_prob):
            pixels = pixels[:, :, self._stream.permutation(3).numpy()]
        return pixels

    def _brightness(self, pixels: np.ndarray, param: Any) -> np.ndarray:
        if not self._chance(param.brightness_prob):
            return pixels
        return _saturated(pixels, 1, self._uniform(-param.brightness_delta, param.brightness_delta))

    def _contrast(self, pixels: np.ndarray, param: Any) -> np.ndarray:
        if not self._chance(param.contrast_prob):
            return pixels
        return _saturated(pixels, self._uniform(param.contrast_lower, param.contrast_upper), 0)

    def _saturation(self, pixels: np.ndarray, param: Any) -> np.ndarray:
        if not self._chance(param.saturation_prob):
            return pixels
        return _in_hsv(pixels, 1, self._uniform(param.saturation_lower, param.saturation_upper), 0)

    def _hue(self, pixels: np.ndarray, param: Any) -> np.ndarray:
        if not self._chance(param.hue_prob):
            return pixels
        return _in_hsv(pixels, 0, 1, self._uniform(-param.hue_delta, param.hue_delta))

    # -- windows -----------------------------------------------------------------------------------------

    def _expansion(self, shape: Shape, boxes: np.ndarray) -> Window | None:
        """A window larger than the image, somewhere around it."""
        if not self.param.HasField("expand_param") or not self._chance(self.param.expand_param.prob):
            return None
        ratio = self._uniform(1, self.param.expand_param.max_expand_ratio)
        if shape[0] * shape[1] * shape[2] * ratio**2 >= _MAX_VALUES:
            raise LayerError(f"an image of {shape[0]}x{shape[1]} cannot be expanded {ratio:g} times")
        tops = []
        for length in shape[:2]:
            larger = int(length * ratio)
            start = math.floor(self._uniform(0, larger - length))
            tops.append((-start / length, (larger - start) / length))
        (ymin, ymax), (xmin, xmax) = tops
        return xmin, ymin, xmax, ymax

    def _sample(self, shape: Shape, boxes: np.ndarray) -> Window | None:
        """One of all the windows the samplers find."""
        found: list[Window] = []
        for sampler in self.samplers:
            if not sampler.use_original_image:
                continue
            most = sampler.max_sample if sampler.HasField("max_sample") else sampler.max_trials
            mine: list[Window] = []
            for _ in range(sampler.max_trials):
                if len(mine) >= most:
                    break
                window = self._draw_window(sampler.sampler)
                if satisfies(window, boxes, sampler.sample_constraint):
                    mine.append(window)
            found += mine
        return found[self._stream.below(len(found))] if found else None

    def _draw_window(self, sampler: Any) -> Window:
        scale = self._uniform(sampler.min_scale, sampler.max_scale)
        ratio = self._uniform(sampler.min_aspect_ratio, sampler.max_aspect_ratio)
        ratio = min(max(ratio, scale**2), 1 / scale**2)
        width, height = min(scale * math.sqrt(ratio), 1.0), min(scale / math.sqrt(ratio), 1.0)
        left, top = self._uniform(0, 1 - width), self._uniform(0, 1 - height)
        return left, top, left + width, top + height

    def _cut(self, pixels: np.ndarray, window: Window) -> np.ndarray:
        """The part of the image in a window; the mean's values where the window is larger."""
        height, width, channels = pixels.shape
        left, top, right, bottom = (edge * length for edge, length in zip(window, (width, height) * 2))
        if left >= 0 and top >= 0 and right <= width and bottom <= height:
            rows = slice(int(top), int(top) + max(int(bottom - top), 1))
            return pixels[rows, int(left) : int(left) + max(int(right - left), 1)]
        out = np.zeros((round(bottom - top), round(right - left), channels), pixels.dtype)
        if self._mean_values is not None:
            out[:] = mean_per_channel(self._mean_values, channels).ravel().astype(pixels.dtype)
        y, x = round(-top), round(-left)
        out[y : y + height, x : x + width] = pixels
        return out

    def _project(self, boxes: np.ndarray, rows: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """The boxes as fractions of a window, and their rows, without those that do not count in it."""
        kept = np.ones(len(boxes), bool)
        if self.param.HasField("emit_constraint"):
            constraint = self.param.emit_constraint
            if constraint.emit_type == constraint.CENTER:
                x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
                kept = (x >= window[0]) & (x <= window[2]) & (y >= window[1]) & (y <= window[3])
            else:
                kept = coverage(boxes, np.array([window])) > constraint.emit_overlap
        size = np.array([window[2] - window[0], window[3] - window[1]] * 2, np.float32)
        inside = ((boxes - np.array(window[:2] * 2, np.float32)) / size).clip(0, 1)
        kept &= ((inside[:, 2:] - inside[:, :2]) > 0).all(1)
        return inside[kept], rows[kept]

    def _resized(self, pixels: np.ndarray) -> np.ndarray:
        """The image at the size asked for, by one of the interpolations given, each as likely as the others."""
        modes = list(self._resize.interp_mode) or [schema.ResizeParameter.LINEAR]
        mode = modes[self._stream.below(len(modes))] if len(modes) > 1 else modes[0]
        size = (self._resize.width, self._resize.height)
        try:
            made = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=_INTERPOLATIONS[mode])
        except cv2.error as error:
            raise LayerError(f"cannot be resized to {size[1]}x{size[0]}: {error.err or error}") from error
        return made if made.ndim == 3 else made[:, :, None]

    # -- values ------------------------------------------------------------------------------------------

    def _normalised(self, image: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        values = image[:, rows, columns].astype(np.float32)
        if self._mean_image is not None:
            if self._mean_image.shape != image.shape:
                raise LayerError(f"the image has shape {image.shape}, the mean file's {self._mean_image.shape}")
            values -= self._mean_image[:, rows, columns]
        elif self._mean_values is not None:
            values -= mean_per_channel(self._mean_values, image.shape[0])
        return values * np.float32(self.param.scale)

    def state(self) -> dict[str, Any]:
        """Where the random draws stand."""
        return {"stream": self._stream.state()}

    def set_state(self, saved: Mapping[str, Any]) -> None:
        """Return to where `state` was taken. Raises ValueError when `saved` is damaged."""
        self._stream.set_state(saved["stream"])


def coverage(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of each box [n, 4] that lies in the other [n, 4] or [1, 4]."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    both = sides.clip(0, None).prod(1)
    return np.where(both > 0, both / np.where(both > 0, area, 1), 0)


def satisfies(window: Window, boxes: np.ndarray, constraint: Any) -> bool:
    """Whether a window meets a SampleConstraint with at least one of the boxes; true where there is no constraint.

    Of overlap, coverage of the window and coverage of the box only the first that is constrained counts, as in SSD.
    """
    sample = np.array([window])
    covered = coverage(np.repeat(sample, len(boxes), 0), boxes)
    area = (sample[:, 2:] - sample[:, :2]).prod(1)
    share = area * covered
    union = area + (boxes[:, 2:] - boxes[:, :2]).prod(1) - share
    measures = {
        "jaccard_overlap": share / union,
        "sample_coverage": covered,
        "object_coverage": coverage(boxes, sample),
    }
    for name, values in measures.items():
        low, high = f"min_{name}", f"max_{name}"
        if constraint.HasField(low) or constraint.HasField(high):
            good = values >= getattr(constraint, low) if constraint.HasField(low) else np.ones(len(boxes), bool)
            return bool((good & (values <= getattr(constraint, high)) if constraint.HasField(high) else good).any())
    return True


def _check_sampler(sampler: Any) -> None:
    if not 0 < sampler.min_scale <= sampler.max_scale <= 1:
        raise LayerError("a sampler's scales must rise and lie in (0, 1]")
    if not 0 < sampler.min_aspect_ratio <= sampler.max_aspect_ratio < math.inf:
        raise LayerError("a sampler's aspect ratios must rise and lie above 0")


def _saturated(pixels: np.ndarray, factor: float, shift: float) -> np.ndarray:
    return np.rint(pixels * np.float32(factor) + np.float32(shift)).clip(0, 255).astype(np.uint8)


def _in_hsv(pixels: np.ndarray, channel: int, factor: float, shift: float) -> np.ndarray:
    hsv = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_BGR2HSV)
    hsv[:, :, channel] = _saturated(hsv[:, :, channel], factor, shift)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def _read_resize(param: Any) -> Any:
    """The ResizeParameter, or None."""
    if not param.resize_param:
        return None
    chosen = param.resize_param[0]
    if len(param.resize_param) > 1 or chosen.resize_mode != schema.ResizeParameter.WARP:
        raise LayerError("transform_param: only one resize_param, with resize_mode: WARP, is supported")
    if not chosen.height or not chosen.width or chosen.height * chosen.width >= _MAX_VALUES:
        raise LayerError(f"resize_param needs a height and a width, not {chosen.height} and {chosen.width}")
    return chosen
