"""What Data and ImageData share: making batches of images that come one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, check_shape, eager
from caffe_bridge.transformer import DataTransformer


class ImageBatch(Layer):
    """Batches of transformed images: data (batch_size, channels, height, width) and, if named, labels (batch_size,).

    The first image of a batch sets the shape of all, so a batch size of 1 takes images of any size. Each forward pass
    goes on where the last one stopped. A subclass says where images come from, and calls `start` in its `setup`.
    """

    bottoms = (0, 0)

    def peek_image(self) -> tuple[np.ndarray, int, str]:
        """The next image (channels, height, width), its label, and what errors call it."""
        raise NotImplementedError

    def next_image(self) -> tuple[np.ndarray, int, str]:
        """As `peek_image`, going on to the one after it."""
        raise NotImplementedError

    def start(self, batch_size: int) -> None:
        """Read the transformation, and the shapes from the first image.

        Raises LayerError when the batch size is 0 or the first image cannot be used.
        """
        check_batch_size(batch_size)
        self.batch_size = batch_size
        self.transformer = DataTransformer(self.param.transform_param, self.phase)
        image, _, name = self.peek_image()
        with _naming(name):
            self._set_shapes(self.transformer.shape(image.shape))

    def _set_shapes(self, image: Shape) -> None:
        self._shapes: list[Shape] = [(self.batch_size, *image), (self.batch_size,)]
        check_shape("the batch", self._shapes[0])

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return self._shapes[: len(self.param.top)]

    @eager
    def forward(self) -> tuple[torch.Tensor, ...]:
        for i in range(self.batch_size):
            image, label, name = self.next_image()
            with _naming(name):
                made = self.transformer(image)
                if i == 0:
                    self._set_shapes(made.shape)
                    data, labels = (np.empty(shape, np.float32) for shape in self._shapes)
                elif made.shape != data.shape[1:]:
                    raise LayerError(
                        f"gives values of shape {made.shape}, the batch's first image {data.shape[1:]}; images of "
                        "different sizes need batch_size 1, or one size or crop for all"
                    )
            data[i], labels[i] = made, label
        return (torch.from_numpy(data), torch.from_numpy(labels))[: len(self.param.top)]


def check_batch_size(batch_size: int) -> None:
    """Raise LayerError for a batch size of 0."""
    if batch_size <= 0:
        raise LayerError("batch_size must be at least 1")


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except LayerError as error:
        raise LayerError(f"{name}: {error}") from error
