"""MemoryData: images that the program hands over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from caffe_bridge.datum import datum_pixels
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, check_shape, eager
from caffe_bridge.registry import register
from caffe_bridge.stream import restoring
from caffe_bridge.transformer import DataTransformer


@register("MemoryData")
class MemoryData(Layer):
    """Batches of arrays given through `set_input_arrays`, `add_datums` or `add_images`, round and round.

    Tops: data (batch_size, channels, height, width); labels, (batch_size,) until the first forward pass and
    (batch_size, 1, 1, 1) from then on, as in Caffe. Arrays are taken as they are, images go through transform_param.
    """

    bottoms = (0, 0)
    tops = (2, 2)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.memory_data_param
        self.batch_size: int = param.batch_size
        self.item_shape: Shape = (param.channels, param.height, param.width)
        if min(self.batch_size, *self.item_shape) <= 0:
            raise LayerError("batch_size, channels, height and width must be given and positive")
        check_shape("the batch", (self.batch_size, *self.item_shape))
        self.transformer = DataTransformer(self.param.transform_param, self.phase)
        self._label_shape: Shape = (self.batch_size,)
        self._data: np.ndarray | None = None
        self._labels = np.empty(0, np.float32)
        self._position = 0
        self._unread = False

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Take arrays, without a copy, and start at their first row.

        Args:
            data: float32 (N, channels, height, width), C-contiguous; N a multiple of the batch size.
            labels: float32 (N,) or (N, 1, 1, 1), C-contiguous.

        Raises:
            LayerError: an array is of another kind, shape or length.
        """
        for name, array in (("data", data), ("labels", labels)):
            if not isinstance(array, np.ndarray) or array.dtype != np.float32 or not array.flags.c_contiguous:
                raise LayerError(f"{name} must be a C-contiguous float32 array")
        if data.shape[1:] != self.item_shape:
            raise LayerError(f"data has shape {data.shape}, items must have {self.item_shape}")
        if labels.shape not in ((len(data),), (len(data), 1, 1, 1)):
            raise LayerError(f"labels have shape {labels.shape}; one label for each of the {len(data)} data items")
        self._check_count_of_items(len(data))
        self._take(data, labels)

    def _check_count_of_items(self, count: int) -> None:
        if count == 0 or count % self.batch_size:
            raise LayerError(f"{count} items are no multiple of the batch size {self.batch_size}")

    def _take(self, data: np.ndarray, labels: np.ndarray) -> None:
        self._data, self._labels, self._position = data, labels.reshape(-1), 0

    def add_datums(self, datums: Sequence[Any]) -> None:
        """Transform Datum messages into the next batches; a multiple of the batch size of them.

        Raises LayerError while earlier ones are not used up, or when a Datum is unfit.
        """
        names = [f"datum {i}" for i in range(len(datums))]
        pixels = (datum_pixels(datum, name, self.transformer.color) for datum, name in zip(datums, names))
        self._add(pixels, [datum.label for datum in datums])

    def add_images(self, images: Sequence[np.ndarray], labels: Sequence[int]) -> None:
        """Transform uint8 images (height, width, channels) into the next batches, as `add_datums`."""
        for i, image in enumerate(images):
            if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
                raise LayerError(f"image {i} must be a uint8 array (height, width, channels)")
        if len(labels) != len(images):
            raise LayerError(f"{len(labels)} labels for {len(images)} images")
        self._add((image.transpose(2, 0, 1) for image in images), labels)

    def _add(self, images: Iterable[np.ndarray], labels: Sequence[int]) -> None:
        if self._unread:
            raise LayerError("images cannot be added until those added before are used up")
        self._check_count_of_items(len(labels))
        data = np.empty((len(labels), *self.item_shape), np.float32)
        for i, image in enumerate(images):
            made = self.transformer(image)
            if made.shape != self.item_shape:
                raise LayerError(f"item {i} gives values of shape {made.shape}, items must have {self.item_shape}")
            data[i] = made
        self._take(data, np.array(labels, np.float32))
        self._unread = True

    def set_batch_size(self, batch_size: int) -> None:
        """Use another batch size from the next arrays or images on.

        Raises LayerError while added images are not used up.
        """
        if self._unread:
            raise LayerError("the batch size cannot change until the added images are used up")
        if batch_size <= 0:
            raise LayerError("batch_size must be at least 1")
        check_shape("the batch", (batch_size, *self.item_shape))
        self.batch_size, self._data = batch_size, None
        self._label_shape = (batch_size, 1, 1, 1)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [(self.batch_size, *self.item_shape), self._label_shape]

    @eager
    def forward(self) -> tuple[torch.Tensor, ...]:
        if self._data is None:
            raise LayerError("has no data yet; give it some with set_input_arrays, add_datums or add_images")
        rows = slice(self._position, self._position + self.batch_size)
        self._position = rows.stop % len(self._data)
        self._unread = self._unread and self._position != 0
        self._label_shape = (self.batch_size, 1, 1, 1)
        data, labels = self._data[rows], self._labels[rows].reshape(self._label_shape)
        return torch.from_numpy(data.copy()), torch.from_numpy(labels.copy())

    def stream_state(self) -> dict[str, Any]:
        """The next row and the random draws, for a snapshot; the arrays are the program's to give again."""
        return {"position": self._position, "transform": self.transformer.state()}

    def set_stream_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `stream_state`. Raises LayerError when the arrays are others by now."""
        with restoring():
            position = int(state["position"])
            if position % self.batch_size or (self._data is not None and not 0 <= position < len(self._data)):
                raise ValueError(f"row {position} was next")
            self._position = position if self._data is not None else 0
            self.transformer.set_state(state["transform"])
