"""AnnotatedData of SSD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from google.protobuf.message import DecodeError

from caffe_bridge import schema
from caffe_bridge.annotated_images import AnnotatedTransformer
from caffe_bridge.database import Record, Records, backend_name
from caffe_bridge.datum import datum_pixels
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, check_shape, eager
from caffe_bridge.layers.image_batch import check_batch_size
from caffe_bridge.registry import register
from caffe_bridge.stream import restoring


class _Item(NamedTuple):
    """A record: its name in errors, the image (channels, height, width), rows label, instance, box, difficult."""

    name: str
    image: np.ndarray
    label: int
    rows: np.ndarray


@register("AnnotatedData", source="SSD")
class AnnotatedData(Layer):
    """Images and their boxes from an LMDB or LevelDB of AnnotatedDatum records, in the order of their keys.

    Tops: data (batch_size, channels, height, width); if named, the ground truth (1, 1, G, 8), rows image in the batch,
    label, instance, xmin, ymin, xmax, ymax, difficult, or one row of -1 where no image has a box. Databases whose
    records have no annotation type give labels (batch_size,). See `caffe_bridge.annotated_images` for what
    transform_param and the batch samplers do to images and boxes.
    """

    bottoms = (0, 0)
    tops = (1, 2)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        data, annotated = self.param.data_param, self.param.annotated_data_param
        check_batch_size(data.batch_size)
        self.batch_size = data.batch_size
        self.records = Records(data.source, backend_name(data.backend), self.phase)
        self.transformer = AnnotatedTransformer(self.param.transform_param, self.phase, annotated.batch_sampler)
        first = self._parse(self.records.peek())
        self.boxed = annotated.HasField("anno_type") or first.HasField("type")
        kind = annotated.anno_type if annotated.HasField("anno_type") else first.type
        if self.boxed and kind != schema.AnnotatedDatum.BBOX:
            raise LayerError("only annotations of type BBOX are supported")
        item = self._item(self.records.peek())
        image = (self.batch_size, *self.transformer.shape(item.image.shape))
        check_shape("the batch", image)
        self._shapes = [image, (1, 1, max(len(item.rows), 1), 8) if self.boxed else (self.batch_size,)]

    def _name(self, record: Record) -> str:
        return self.records.describe(record[0])

    def _parse(self, record: Record) -> Any:
        try:
            return schema.AnnotatedDatum.FromString(record[1])
        except DecodeError as error:
            raise LayerError(f"{self._name(record)}: {len(record[1])} bytes that are no AnnotatedDatum") from error

    def _item(self, record: Record) -> _Item:
        annotated, name = self._parse(record), self._name(record)
        rows = [
            (group.group_label, one.instance_id, box.xmin, box.ymin, box.xmax, box.ymax, box.difficult)
            for group in annotated.annotation_group
            for one in group.annotation
            for box in (one.bbox,)
        ]
        image = datum_pixels(annotated.datum, name, self.transformer.color)
        return _Item(name, image, annotated.datum.label, np.array(rows, np.float32).reshape(-1, 7))

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return self._shapes[: len(self.param.top)]

    @eager
    def forward(self) -> tuple[torch.Tensor, ...]:
        images: list[np.ndarray] = []
        rows, labels = [], []
        for number in range(self.batch_size):
            item = self._item(self.records.read())
            try:
                values, boxes, left = self.transformer(item.image, item.rows[:, 2:6])
            except LayerError as error:
                raise LayerError(f"{item.name}: {error}") from error
            if images and values.shape != images[0].shape:
                raise LayerError(
                    f"{item.name}: gives values of shape {values.shape}, the batch's first image {images[0].shape}; "
                    "resize or crop all to one size, or take batch_size 1"
                )
            images.append(values)
            labels.append(item.label)
            known = item.rows[left]
            rows.append(np.concatenate([np.full((len(left), 1), number), known[:, :2], boxes, known[:, 6:]], 1))
        truth = np.concatenate(rows).astype(np.float32)
        if not len(truth):
            truth = np.full((1, 8), -1, np.float32)
        second = truth[None, None] if self.boxed else np.array(labels, np.float32)
        data = np.stack(images)
        self._shapes = [data.shape, second.shape]
        return (torch.from_numpy(data), torch.from_numpy(second))[: len(self.param.top)]

    def stream_state(self) -> dict[str, Any]:
        """The position in the database and in the random draws, for a snapshot."""
        return {"records": self.records.state(), "transform": self.transformer.state()}

    def set_stream_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `stream_state`. Raises LayerError when the database is another one by now."""
        with restoring():
            self.records.set_state(state["records"])
            self.transformer.set_state(state["transform"])
