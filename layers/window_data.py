"""WindowData: windows of images, sampled by their overlap with objects (R-CNN's training data)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.images import decode_image, read_bytes, resize
from caffe_bridge.layers.base import Layer, Shape, check_shape, eager
from caffe_bridge.layers.image_batch import check_batch_size
from caffe_bridge.listing import read_text
from caffe_bridge.registry import register
from caffe_bridge.stream import Stream, restoring
from caffe_bridge.transformer import mean_per_channel, read_mean


class Window(NamedTuple):
    """A box (x1, y1, x2, y2) in image pixels, ends included, of the image at `image` in the list."""

    image: int
    label: int
    box: tuple[int, int, int, int]


class Crop(NamedTuple):
    """What is cut from an image, and where it goes in the output.

    `box` (x1, y1, x2, y2) lies in image pixels, ends included; `size` (height, width) is what it is warped to;
    `top`, `left` is where that lies in the output, `left_mirrored` where it lies in a flipped one.
    """

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    top: int
    left: int
    left_mirrored: int


@dataclass
class WindowFile:
    """The contents of a window file."""

    images: list[str]
    channels: int
    foreground: list[Window]
    background: list[Window]


def read_windows(path: str, fg_threshold: float, bg_threshold: float) -> WindowFile:
    """Read a window file.

    For every image it holds `# index`, the path, channels, height, width, the number of windows, and for each window
    `class overlap x1 y1 x2 y2`. Windows whose overlap is at least `fg_threshold` are foreground, those below
    `bg_threshold` background; others are left out.

    Raises LayerError when the file cannot be read or breaks the format.
    """
    tokens = read_text(path).split()
    images: list[str] = []
    channels = 0
    windows: dict[bool, list[Window]] = {True: [], False: []}
    fg_limit, bg_limit = np.float32(fg_threshold), np.float32(bg_threshold)
    at = 0
    try:
        while at < len(tokens):
            mark, index, name, depth, _, _, count = tokens[at : at + 7]
            if mark != "#":
                raise ValueError(f"'{mark}' where '# INDEX' should be")
            if _integer(index) != len(images):
                raise ValueError(f"image index {index} where {len(images)} should be")
            images.append(name)
            channels = _integer(depth)
            at += 7
            for _ in range(_integer(count)):
                kind, share, *box = tokens[at : at + 6]
                x1, y1, x2, y2 = map(_integer, box)
                at += 6
                label, overlap = _integer(kind), np.float32(share)
                is_foreground = bool(overlap >= fg_limit)
                if is_foreground and label <= 0:
                    raise ValueError(f"a foreground window has class {label}")
                if is_foreground or overlap < bg_limit:
                    made = Window(len(images) - 1, label if is_foreground else 0, (x1, y1, x2, y2))
                    windows[is_foreground].append(made)
    except ValueError as error:
        raise LayerError(f"window file {path}, image {max(len(images) - 1, 0)}: {error}") from error
    if not images:
        raise LayerError(f"window file {path}: is empty")
    return WindowFile(images, channels, windows[True], windows[False])


def _integer(text: str) -> int:
    value = int(text)
    if abs(value) >= 1 << 31:
        raise ValueError(f"{text} does not fit in 32 bits")
    return value


def _round(value: np.float32) -> int:
    """To the nearest integer, halves away from zero."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), float(value)))


def place_window(
    box: tuple[int, int, int, int], image_size: tuple[int, int], crop_size: int, context_pad: int, square: bool
) -> Crop:
    """How a window fills a square of `crop_size`, in float32 as Caffe computes it.

    Args:
        box: (x1, y1, x2, y2) in image pixels, ends included.
        image_size: (height, width).
        crop_size: side of the output.
        context_pad: pixels of the output that surround the window on each side.
        square: take the tightest square around the window instead of warping it.

    Raises:
        LayerError: the window lies outside the image, or nothing of it is left.
    """
    height, width = image_size
    x1, y1, x2, y2 = box
    rows, columns, top, left, left_mirrored = crop_size, crop_size, 0, 0, 0
    if context_pad > 0 or square:
        side = np.float32(crop_size)
        context_scale = side / np.float32(crop_size - 2 * context_pad)
        half_height, half_width = np.float32(y2 - y1 + 1) / np.float32(2), np.float32(x2 - x1 + 1) / np.float32(2)
        center_x, center_y = np.float32(x1) + half_width, np.float32(y1) + half_height
        if square:
            half_height = half_width = max(half_height, half_width)
        x1, x2 = _round(center_x - half_width * context_scale), _round(center_x + half_width * context_scale)
        y1, y2 = _round(center_y - half_height * context_scale), _round(center_y + half_height * context_scale)
        if x2 < x1 or y2 < y1:
            raise LayerError(f"window {box} is empty")
        scale_x, scale_y = side / np.float32(x2 - x1 + 1), side / np.float32(y2 - y1 + 1)
        beyond_left, beyond_right = max(0, -x1), max(0, x2 - width + 1)
        beyond_top, beyond_bottom = max(0, -y1), max(0, y2 - height + 1)
        x1, y1, x2, y2 = x1 + beyond_left, y1 + beyond_top, x2 - beyond_right, y2 - beyond_bottom
        columns, rows = _round(np.float32(x2 - x1 + 1) * scale_x), _round(np.float32(y2 - y1 + 1) * scale_y)
        top = _round(np.float32(beyond_top) * scale_y)
        left, left_mirrored = (_round(np.float32(pad) * scale_x) for pad in (beyond_left, beyond_right))
        rows = min(rows, crop_size - top)
    if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height):
        raise LayerError(f"window {box} does not lie in the image, which is {height}x{width}")
    return Crop((x1, y1, x2, y2), (rows, columns), top, left, left_mirrored)


@register("WindowData")
class WindowData(Layer):
    """Batches of windows, warped to crop_size squares: fg_fraction of them objects, background ones first.

    Tops: data (batch_size, channels, crop_size, crop_size); labels (batch_size,), 0 for background. Every window is
    drawn by chance, and flipped by chance where transform_param.mirror is set. What lies beyond the image is 0 after
    the mean is subtracted. crop_size, mirror and mean come from transform_param; scale from window_data_param, whose
    value Caffe's upgrade of old nets moves away to where the layer does not look.
    """

    bottoms = (0, 0)
    tops = (2, 2)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param, transform = self.param.window_data_param, self.param.transform_param
        check_batch_size(param.batch_size)
        if transform.crop_size <= 0:
            raise LayerError("transform_param.crop_size must be at least 1")
        if 2 * param.context_pad >= transform.crop_size:
            raise LayerError(f"context_pad {param.context_pad} leaves nothing of crop_size {transform.crop_size}")
        self.crop_size: int = transform.crop_size
        self.file = read_windows(param.source, param.fg_threshold, param.bg_threshold)
        if self.file.channels != 3:
            raise LayerError(f"window file {param.source}: {self.file.channels} channels; images are read with 3")
        self.foreground_count = int(np.float32(param.batch_size) * np.float32(param.fg_fraction))
        if not 0 <= self.foreground_count <= param.batch_size:
            raise LayerError(f"fg_fraction must be from 0 to 1, not {param.fg_fraction:g}")
        for kind, windows in (("foreground", self.file.foreground), ("background", self.file.background)):
            if not windows:
                raise LayerError(f"window file {param.source}: holds no {kind} window")
        self._shape: Shape = (param.batch_size, 3, self.crop_size, self.crop_size)
        check_shape("the batch", self._shape)
        self._mean = self._read_mean(transform)
        paths = [param.root_folder + name for name in self.file.images]
        self._cache = {path: read_bytes(path) for path in paths} if param.cache_images else {}
        self._paths = paths
        self.stream = Stream()

    def _read_mean(self, transform: Any) -> np.ndarray:
        """What is subtracted from a whole output: (3, crop_size, crop_size), or of one pixel."""
        image, values = read_mean(transform)
        if image is None:
            return np.zeros((1, 1, 1), np.float32) if values is None else mean_per_channel(values, 3)
        # Both offsets follow from the width, as in Caffe.
        first = (image.shape[2] - self.crop_size) // 2
        last = first + self.crop_size
        if len(image) != 3 or first < 0 or last > image.shape[1]:
            raise LayerError(
                f"mean_file {transform.mean_file}: has shape {image.shape}, which gives no 3 channels of "
                f"{self.crop_size}x{self.crop_size}"
            )
        return image[:, first:last, first:last]

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [self._shape, self._shape[:1]]

    @eager
    def forward(self) -> tuple[torch.Tensor, ...]:
        data = np.zeros(self._shape, np.float32)
        labels = np.empty(self._shape[:1], np.float32)
        for i in range(len(data)):
            is_foreground = i >= len(data) - self.foreground_count
            windows = self.file.foreground if is_foreground else self.file.background
            window = windows[self.stream.below(len(windows))]
            mirrored = self.param.transform_param.mirror and self.stream.below(2) == 1
            self._fill(data[i], window, mirrored)
            labels[i] = window.label
        return torch.from_numpy(data), torch.from_numpy(labels)

    def _fill(self, output: np.ndarray, window: Window, mirrored: bool) -> None:
        param, path = self.param.window_data_param, self._paths[window.image]
        image = decode_image(self._cache.get(path) or read_bytes(path), f"image {path}")
        square = param.crop_mode == "square"
        try:
            crop = place_window(window.box, image.shape[:2], self.crop_size, param.context_pad, square)
            left = crop.left_mirrored if mirrored else crop.left
            rows, columns = crop.size[0], min(crop.size[1], self.crop_size - left)
            x1, y1, x2, y2 = crop.box
            warped = resize(image[y1 : y2 + 1, x1 : x2 + 1], rows, columns)
        except LayerError as error:
            raise LayerError(f"image {path}: {error}") from error
        pixels = (warped[:, ::-1] if mirrored else warped).transpose(2, 0, 1).astype(np.float32)
        place = (slice(None), slice(crop.top, crop.top + rows), slice(left, left + columns))
        mean = self._mean[place] if self._mean.shape == output.shape else self._mean
        output[place] = (pixels - mean) * np.float32(param.scale)

    def stream_state(self) -> dict[str, Any]:
        """The position in the random draws, for a snapshot."""
        return {"stream": self.stream.state()}

    def set_stream_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `stream_state`. Raises LayerError when it is damaged."""
        with restoring():
            self.stream.set_state(state["stream"])
