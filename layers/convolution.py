"""Convolution and Deconvolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, canonical_axis
from caffe_bridge.registry import register

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def spatial_parameter(param: Any, name: str, axes: int, default: int) -> list[int]:
    """One number per spatial axis of a ConvolutionParameter field: given once, per axis, or as NAME_h and NAME_w.

    Args:
        param: ConvolutionParameter.
        name: "kernel_size", "stride", "pad" or "dilation".
        axes: spatial axes of the bottom.
        default: used where the field is absent; kernel_size has none.

    Raises:
        LayerError: both forms given, the _h/_w form on other than two axes, or another number of values.
    """
    values = list(getattr(param, name))
    stem = name.removesuffix("_size")
    fields = param.DESCRIPTOR.fields_by_name
    sides = [f"{stem}_h", f"{stem}_w"]
    if sides[0] in fields and any(param.HasField(side) for side in sides):
        if axes != 2:
            raise LayerError(f"{sides[0]} and {sides[1]} are for 2 spatial axes; this bottom has {axes}")
        if values:
            raise LayerError(f"give {name} or {sides[0]} and {sides[1]}, not both")
        return [getattr(param, side) for side in sides]
    if not values and (name != "kernel_size" or not axes):
        return [default] * axes
    if len(values) not in (1, axes):
        raise LayerError(f"{name} is given once or once per spatial axis ({axes}), not {len(values)} times")
    return values * axes if len(values) == 1 else values


class _Filtering(Layer):
    """What Convolution and Deconvolution share: geometry, groups, and blobs weight and bias.

    Axes before `axis` are independent images; those after it are spatial (none to three). Several bottoms of one
    shape pass through the same filters.
    """

    bottoms: ClassVar[tuple[int, int | None]] = (1, None)
    tops: ClassVar[tuple[int, int | None]] = (1, None)
    same_count = True

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.convolution_param
        self.axis = canonical_axis(param.axis, len(bottom_shapes[0]))
        self.ndim = len(bottom_shapes[0])
        axes = self.ndim - self.axis - 1
        if axes > 3:
            raise LayerError(f"{axes} spatial axes after axis {self.axis}; at most 3 are supported")
        self.pointwise = not axes
        self.kernel = spatial_parameter(param, "kernel_size", axes, 1) or [1]
        self.stride = spatial_parameter(param, "stride", axes, 1) or [1]
        self.pad = spatial_parameter(param, "pad", axes, 0) or [0]
        self.dilation = spatial_parameter(param, "dilation", axes, 1) or [1]
        for name in ("kernel", "stride", "dilation"):
            if 0 in getattr(self, name):
                raise LayerError(f"{name} must not be 0")
        self.channels, self.outputs, self.group = bottom_shapes[0][self.axis], param.num_output, param.group
        if not self.outputs:
            raise LayerError("num_output must be given and above 0")
        if not self.group or self.channels % self.group or self.outputs % self.group:
            raise LayerError(
                f"group: {self.group} must divide the {self.channels} input channels and num_output: {self.outputs}"
            )
        self.add_blob((*self._weight_head(), *self.kernel[:axes]), param.weight_filler)
        if param.bias_term:
            self.add_blob((self.outputs,), param.bias_filler)

    def _weight_head(self) -> Shape:
        """The weight's first two axes."""
        raise NotImplementedError

    def _filter(self, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Filter (images, channels, *spatial); at least one spatial axis."""
        raise NotImplementedError

    def _output_size(self, size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
        raise NotImplementedError

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shape = bottom_shapes[0]
        for other in bottom_shapes[1:]:
            if other != shape:
                raise LayerError(f"all bottoms must have one shape, not {shape} and {other}")
        if len(shape) != self.ndim:
            raise LayerError(f"the bottom had {self.ndim} axes at set-up and has {len(shape)} now")
        if shape[self.axis] != self.channels:
            raise LayerError(f"the filters take {self.channels} channels, the bottom has {shape[self.axis]}")
        geometry = zip(shape[self.axis + 1 :], self.kernel, self.stride, self.pad, self.dilation)
        spatial = [self._output_size(*axis) for axis in geometry]
        if any(size < 1 for size in spatial):
            raise LayerError(f"kernel {self.kernel} and pad {self.pad} leave no output: its size would be {spatial}")
        return [(*shape[: self.axis], self.outputs, *spatial)] * len(bottom_shapes)

    def forward(self, *bottoms: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        tops = tuple(self._run(bottom) for bottom in bottoms)
        return tops if len(tops) > 1 else tops[0]

    def _run(self, bottom: torch.Tensor) -> torch.Tensor:
        weight = self.blobs[0]
        bias = self.blobs[1] if len(self.blobs) > 1 else None
        if self.axis == 1 and not self.pointwise:
            return self._filter(bottom, weight, bias)
        lead = bottom.shape[: self.axis]
        images = bottom.reshape(math.prod(lead), *bottom.shape[self.axis :])
        if self.pointwise:
            top = self._filter(images.unsqueeze(2), weight.unsqueeze(2), bias).squeeze(2)
        else:
            top = self._filter(images, weight, bias)
        return top.reshape(*lead, *top.shape[1:])


def pads_apart(pad: Sequence[int]) -> bool:
    """Whether the padding of a volume is better a step of its own.

    With some pads from 3 on (torch 2.13) oneDNN's gradient of 3-D filters reads and writes outside its arrays.
    """
    return len(pad) == 3 and max(pad) > 1


@register("Convolution")
class Convolution(_Filtering):
    """Correlation with learned filters: blobs (num_output, channels / group, *kernel) and (num_output,).

    Output size is (size + 2 pad - extent) / stride + 1, rounded towards zero as Caffe's integers are: a kernel that
    overhangs the padded input by less than a stride still gives one output, reading zeros.
    """

    def _weight_head(self) -> Shape:
        return self.outputs, self.channels // self.group

    def _output_size(self, size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
        room = size + 2 * pad - (dilation * (kernel - 1) + 1)
        return room // stride + 1 if room >= 0 else 1 - (-room) // stride

    def extended(self, images: torch.Tensor) -> torch.Tensor:
        """(images, channels, *spatial) with zeros behind its ends where a kernel overhangs by less than a stride."""
        lacking = [
            dilation * (kernel - 1) + 1 - size - 2 * pad if stride > 1 else 0
            for size, kernel, stride, pad, dilation in zip(
                images.shape[2:], self.kernel, self.stride, self.pad, self.dilation
            )
        ]
        if any(0 < lack < stride for lack, stride in zip(lacking, self.stride)):
            ends = [[0, max(lack, 0)] for lack in lacking]
            images = F.pad(images, sum(reversed(ends), []))
        return images

    def _filter(self, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        images = self.extended(images)
        pad = self.pad
        if pads_apart(pad):
            images, pad = F.pad(images, [p for p in reversed(pad) for _ in range(2)]), [0] * len(pad)
        convolve = _CONVOLVE[len(self.kernel)]
        return convolve(images, weight, bias, self.stride, pad, self.dilation, self.group)


@register("Deconvolution")
class Deconvolution(_Filtering):
    """The transpose of Convolution: blobs (channels, num_output / group, *kernel) and (num_output,).

    Output size is stride (size - 1) + extent - 2 pad.
    """

    def _weight_head(self) -> Shape:
        return self.channels, self.outputs // self.group

    def _output_size(self, size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
        return stride * (size - 1) + dilation * (kernel - 1) + 1 - 2 * pad

    def _filter(self, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        transpose = _TRANSPOSE[len(self.kernel)]
        if not pads_apart(self.pad):
            return transpose(images, weight, bias, self.stride, self.pad, 0, self.group, self.dilation)
        whole = transpose(images, weight, bias, self.stride, 0, 0, self.group, self.dilation)
        inner: tuple[Any, ...] = tuple(slice(pad, size - pad) for pad, size in zip(self.pad, whole.shape[2:]))
        return whole[(..., *inner)]
