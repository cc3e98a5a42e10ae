"""Data: images from a database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from caffe_bridge.database import Record, Records, backend_name
from caffe_bridge.datum import datum_pixels, parse_datum
from caffe_bridge.layers.image_batch import ImageBatch
from caffe_bridge.registry import register
from caffe_bridge.stream import restoring


@register("Data")
class Data(ImageBatch):
    """Images and labels from an LMDB or LevelDB of Datum records, in the order of their keys, round and round.

    Tops: data (batch_size, channels, height, width); if named, labels (batch_size,). As in Caffe the backend is
    LEVELDB unless the prototxt says LMDB, rand_skip has no effect, encoded images keep their own number of channels
    unless transform_param has force_color or force_gray, and solvers that train together share the records
    (`caffe_bridge.solver_shares`).
    """

    tops = (1, 2)

    def setup(self, bottom_shapes: list[tuple[int, ...]]) -> None:
        param = self.param.data_param
        self.records = Records(param.source, backend_name(param.backend), self.phase)
        self.start(param.batch_size)

    def peek_image(self) -> tuple[np.ndarray, int, str]:
        return self._image(self.records.peek())

    def next_image(self) -> tuple[np.ndarray, int, str]:
        return self._image(self.records.read())

    def _image(self, record: Record) -> tuple[np.ndarray, int, str]:
        key, value = record
        name = self.records.describe(key)
        datum = parse_datum(value, name)
        return datum_pixels(datum, name, self.transformer.color), datum.label, name

    def stream_state(self) -> dict[str, Any]:
        """The position in the database and in the random draws, for a snapshot."""
        return {"records": self.records.state(), "transform": self.transformer.state()}

    def set_stream_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `stream_state`. Raises LayerError when the database is another one by now."""
        with restoring():
            self.records.set_state(state["records"])
            self.transformer.set_state(state["transform"])
