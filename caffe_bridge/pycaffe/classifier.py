"""pycaffe's Classifier: a net with the image preparation and the ten-crop averaging of image classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from caffe_bridge.errors import CaffeError
from caffe_bridge.pycaffe import io
from caffe_bridge.pycaffe.net import Net
from caffe_bridge.python_layer import TEST


def make_transformer(
    net: Net,
    mean: np.ndarray | None,
    input_scale: float | None,
    raw_scale: float | None,
    channel_swap: Sequence[int] | None,
) -> io.Transformer:
    """The preparation of (H, W, K) images for the first input of a net."""
    in_ = net.inputs[0]
    transformer = io.Transformer({in_: net.blobs[in_].shape})
    transformer.set_transpose(in_, (2, 0, 1))
    if mean is not None:
        transformer.set_mean(in_, mean)
    if input_scale is not None:
        transformer.set_input_scale(in_, input_scale)
    if raw_scale is not None:
        transformer.set_raw_scale(in_, raw_scale)
    if channel_swap is not None:
        transformer.set_channel_swap(in_, channel_swap)
    return transformer


class Classifier(Net):
    """A Net that predicts classes of images.

    Args:
        model_file, pretrained_file: prototxt and weights.
        image_dims: (height, width) that images are scaled to before cropping; the input's size by default.
        mean, input_scale, raw_scale, channel_swap: see `io.Transformer`.
    """

    def __init__(
        self,
        model_file: Any,
        pretrained_file: Any,
        image_dims: Sequence[int] | None = None,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ):
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = make_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].shape[2:])
        self.image_dims = np.array(image_dims if image_dims is not None and len(image_dims) else self.crop_dims)

    def predict(self, inputs: Sequence[np.ndarray], oversample: bool = True) -> np.ndarray:
        """Class probabilities, one row per image.

        Args:
            inputs: (H, W, K) images of any size.
            oversample: average over ten crops (corners, centre, mirrored); otherwise the centre crop alone is taken.

        Raises:
            CaffeError: there is no image.
        """
        if not len(inputs):
            raise CaffeError("predict: no images given")
        images = np.stack([io.resize_image(image, self.image_dims) for image in inputs])
        if oversample:
            crops = io.oversample(images, self.crop_dims)
        else:
            rows, columns = self.crop_dims
            top, left = (int(whole / 2 - part / 2) for whole, part in zip(self.image_dims, self.crop_dims))
            crops = images[:, top : top + rows, left : left + columns]
        in_ = self.inputs[0]
        prepared: dict[str, Any] = {in_: np.stack([self.transformer.preprocess(in_, crop) for crop in crops])}
        predictions = self.forward_all(**prepared)[self.outputs[0]]
        if oversample:
            predictions = predictions.reshape(len(inputs), 10, -1).mean(1)
        return predictions
