"""ImageData: images from files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from caffe_bridge.errors import LayerError
from caffe_bridge.images import read_image
from caffe_bridge.layers.image_batch import ImageBatch
from caffe_bridge.listing import read_image_list
from caffe_bridge.registry import register
from caffe_bridge.stream import EpochOrder, Stream, restoring


@register("ImageData")
class ImageData(ImageBatch):
    """Images from the files of a list, with their labels, round and round.

    Tops: data (batch_size, channels, height, width) with 3 channels, or 1 if is_color is false; labels (batch_size,).
    A line of the list is a file name, to which root_folder is prefixed as it stands, a space and a label. `shuffle`
    draws a new order every epoch; rand_skip starts up to that many images later, by chance. Without new_height and
    new_width images keep their size.
    """

    tops = (2, 2)

    def setup(self, bottom_shapes: list[tuple[int, ...]]) -> None:
        param = self.param.image_data_param
        if (param.new_height > 0) != (param.new_width > 0):
            raise LayerError("new_height and new_width must be given together")
        self.images = read_image_list(param.source)
        self.order = EpochOrder(len(self.images), Stream() if param.shuffle else None)
        if param.rand_skip:
            skipped = Stream().below(param.rand_skip)
            if skipped >= len(self.images):
                raise LayerError(f"rand_skip would skip {skipped} of {len(self.images)} images")
            self.order.position = skipped
        self.start(param.batch_size)

    def peek_image(self) -> tuple[np.ndarray, int, str]:
        param = self.param.image_data_param
        name, label = self.images[self.order.current]
        path = param.root_folder + name
        image = read_image(path, param.new_height, param.new_width, param.is_color)
        return image.transpose(2, 0, 1), label, f"image {path}"

    def next_image(self) -> tuple[np.ndarray, int, str]:
        image = self.peek_image()
        self.order.advance()
        return image

    def stream_state(self) -> dict[str, Any]:
        """The position in the list and in the random draws, for a snapshot."""
        return {"images": self.order.state(), "transform": self.transformer.state()}

    def set_stream_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `stream_state`. Raises LayerError when the list has another length by now."""
        with restoring():
            self.order.set_state(state["images"])
            self.transformer.set_state(state["transform"])
