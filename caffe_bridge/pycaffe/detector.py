"""pycaffe's Detector: classifies windows of images, with surrounding context as in R-CNN.

R. Girshick et al., Rich feature hierarchies for accurate object detection and semantic segmentation, CVPR 2014.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from caffe_bridge.errors import CaffeError
from caffe_bridge.pycaffe import io
from caffe_bridge.pycaffe.classifier import make_transformer
from caffe_bridge.pycaffe.net import Net
from caffe_bridge.python_layer import TEST


class Detector(Net):
    """A Net that classifies windows of images.

    Args:
        model_file, pretrained_file: prototxt and weights.
        mean, input_scale, raw_scale, channel_swap: see `io.Transformer`.
        context_pad: width, in pixels of the (square) net input, of a border that shows what surrounds the window.
    """

    def __init__(
        self,
        model_file: Any,
        pretrained_file: Any,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ):
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = make_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def detect_windows(self, images_windows: Iterable[tuple[Any, Sequence[Any]]]) -> list[dict[str, Any]]:
        """Classify windows of images.

        Args:
            images_windows: (image file, windows) pairs; a window is (ymin, xmin, ymax, xmax) in image pixels.

        Returns:
            one dict per window: `window`, `prediction` (the row of the net's first output) and `filename`.
        """
        found: list[dict[str, Any]] = []
        prepared: list[np.ndarray] = []
        in_ = self.inputs[0]
        for filename, windows in images_windows:
            image = io.load_image(filename)
            for window in windows:
                prepared.append(self.transformer.preprocess(in_, self.crop(image, window)))
                found.append({"window": window, "filename": filename})
        if found:
            given: dict[str, Any] = {in_: np.stack(prepared)}
            predictions = self.forward_all(**given)[self.outputs[0]]
            for detection, prediction in zip(found, predictions):
                detection["prediction"] = prediction
        return found

    def detect_selective_search(self, image_fnames: Sequence[str]) -> list[dict[str, Any]]:
        """Not available: Selective Search is a MATLAB program.

        Raises:
            CaffeError: always.
        """
        raise CaffeError(
            "detect_selective_search needs MATLAB's Selective Search; make the windows with another program and pass "
            "them to detect_windows"
        )

    def crop(self, im: np.ndarray, window: Sequence[float]) -> np.ndarray:
        """Cut a window out of a (H, W, K) image, with context as `configure_crop` says.

        Args:
            window: (ymin, xmin, ymax, xmax) in image pixels; the last row and column are not part of the cut.

        Returns:
            the cut; with context it has the net input's size, and the mean where it lies outside the image.

        Raises:
            CaffeError: the window has no pixels in the image.
        """
        if not self.context_pad:
            ymin, xmin, ymax, xmax = (int(edge) for edge in window)
            return _not_empty(im[ymin:ymax, xmin:xmax], window, im)
        size = self.blobs[self.inputs[0]].width
        box = self._with_context(np.asarray(window, float), size)
        scale_y, scale_x = size / (box[2] - box[0] + 1), size / (box[3] - box[1] + 1)
        pad_y, pad_x = round(max(0.0, -box[0]) * scale_y), round(max(0.0, -box[1]) * scale_x)
        height, width = im.shape[:2]
        top, left, bottom, right = (int(edge) for edge in np.clip(box, 0, [height, width, height, width]))
        rows = min(round((bottom - top + 1) * scale_y), size - pad_y)
        columns = min(round((right - left + 1) * scale_x), size - pad_x)
        seen = _not_empty(im[top:bottom, left:right], window, im)
        crop = np.ones(self.crop_dims, np.float32) * self.crop_mean
        if rows > 0 and columns > 0:
            crop[pad_y : pad_y + rows, pad_x : pad_x + columns] = io.resize_image(seen, (rows, columns))
        return crop

    def _with_context(self, window: np.ndarray, size: int) -> np.ndarray:
        """The window grown about its centre so that `context_pad` of `size` pixels on each side are context."""
        scale = size / (size - 2 * self.context_pad)
        half = (window[2:] - window[:2] + 1) / 2
        centre = window[:2] + half
        return np.round(np.concatenate([centre - scale * half, centre + scale * half]))

    def configure_crop(self, context_pad: int | None) -> None:
        """Set the context border, and with it what fills the part of a crop that lies outside the image.

        Raises:
            CaffeError: the border leaves nothing of the net's input.
        """
        in_ = self.inputs[0]
        channels, height, width = self.blobs[in_].shape[1:]
        self.crop_dims = np.array([height, width, channels])
        self.context_pad = context_pad or 0
        if not 0 <= 2 * self.context_pad < width:
            raise CaffeError(f"context_pad {context_pad} leaves nothing of an input {width} pixels wide")
        mean = self.transformer.mean.get(in_)
        if mean is None:
            self.crop_mean = np.zeros(self.crop_dims, np.float32)
            return
        image = mean.transpose(1, 2, 0)
        if in_ in self.transformer.channel_swap:
            image = image[:, :, np.argsort(self.transformer.channel_swap[in_])]
        self.crop_mean = image / self.transformer.raw_scale.get(in_, 1)


def _not_empty(cut: np.ndarray, window: Sequence[float], im: np.ndarray) -> np.ndarray:
    if not cut.size:
        raise CaffeError(f"window {tuple(window)} has no pixels in an image of {im.shape[0]} x {im.shape[1]}")
    return cut
