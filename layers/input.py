"""Layers that make blobs from nothing but their parameters: Input and DummyData."""

from __future__ import annotations

import math
from typing import Any

import torch

from caffe_bridge import fillers, schema
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register

_INT_MAX = (1 << 31) - 1


def read_shape(dims: Any) -> Shape:
    """A shape from a BlobShape's dims.

    Raises:
        LayerError: a negative dimension, or more than the 2^31 - 1 values a blob of Caffe can hold.
    """
    shape = tuple(int(dim) for dim in dims)
    if any(dim < 0 for dim in shape) or math.prod(shape) > _INT_MAX:
        raise LayerError(f"shape {shape}: dims must be 0 or more and their product below 2^31")
    return shape


@register("Input")
class Input(Layer):
    """Blobs that the caller fills. One shape serves every top, or each has its own; without one, a top is a scalar.

    The net puts its inputs in these tops; run alone, the layer makes zeros.
    """

    bottoms = (0, 0)
    tops = (1, None)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        tops = len(self.param.top)
        shapes = [read_shape(shape.dim) for shape in self.param.input_param.shape] or [()]
        if len(shapes) not in (1, tops):
            raise LayerError(f"shape is given once or once per top ({tops}), not {len(shapes)} times")
        self.shapes = shapes * tops if len(shapes) == 1 else shapes

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return self.shapes

    def forward(self) -> torch.Tensor | tuple[torch.Tensor, ...]:
        tops = tuple(torch.zeros(shape) for shape in self.shapes)
        return tops if len(tops) > 1 else tops[0]


@register("DummyData")
class DummyData(Layer):
    """Blobs made by fillers, zeros by default.

    Shapes come from `shape`, or from num, channels, height and width; each is given once or once per top, as are the
    fillers. A constant blob is filled at set-up and never again, whatever is written to it; any other in every pass.

    Attributes:
        refill: per top, whether each forward pass makes new values.
    """

    bottoms = (0, 0)
    tops = (1, None)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.dummy_data_param
        self.shapes = self._read_shapes(param)
        data_fillers = list(param.data_filler) or [schema.FillerParameter(type="constant")]
        self.data_fillers = self._once_per_top("data_filler", data_fillers)
        for filler in self.data_fillers:
            fillers.check(filler)
        self.refill = [filler.type != "constant" for filler in self.data_fillers]
        self.fixed = [None if again else self._make(i) for i, again in enumerate(self.refill)]

    def _read_shapes(self, param: Any) -> list[Shape]:
        legacy = ("num", "channels", "height", "width")
        if not any(getattr(param, name) for name in legacy):
            return self._once_per_top("shape", [read_shape(shape.dim) for shape in param.shape])
        if param.shape:
            raise LayerError("give shape, or num, channels, height and width, not both")
        sides = [self._once_per_top(name, list(getattr(param, name))) for name in legacy]
        return [read_shape(dims) for dims in zip(*sides)]

    def _once_per_top(self, name: str, values: list[Any]) -> list[Any]:
        tops = len(self.param.top)
        if len(values) not in (1, tops):
            raise LayerError(f"{name} is given once or once per top ({tops}), not {len(values)} times")
        return values * tops if len(values) == 1 else values

    def _make(self, top: int) -> torch.Tensor:
        values = torch.empty(self.shapes[top])
        fillers.fill(values, self.data_fillers[top])
        return values

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return self.shapes

    def forward(self) -> torch.Tensor | tuple[torch.Tensor, ...]:
        tops = tuple(self._make(i) if made is None else made for i, made in enumerate(self.fixed))
        return tops if len(tops) > 1 else tops[0]
