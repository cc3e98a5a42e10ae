"""Interp of DeepLab and PSPNet."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, check_shape
from caffe_bridge.registry import register


@register("Interp", source="PSPNet")
class Interp(Layer):
    """Bilinear resizing of (N, C, H, W) that keeps the corners in place.

    `pad_beg` and `pad_end`, 0 or less, first crop both axes. The new size comes from the fields that are there:
    shrink_factor alone, zoom_factor alone, height and width, or both factors one after the other, the first of these
    that applies.
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.interp_param
        self.begin, self.end = -param.pad_beg, -param.pad_end
        if min(self.begin, self.end) < 0:
            raise LayerError("pad_beg and pad_end crop: they must be 0 or less")
        has_shrink, has_zoom = param.HasField("shrink_factor"), param.HasField("zoom_factor")
        has_size = param.HasField("height") and param.HasField("width")
        self.fixed = (param.height, param.width) if has_size and has_shrink == has_zoom else None
        self.shrink, self.zoom = param.shrink_factor, param.zoom_factor
        if not (has_shrink or has_zoom or has_size):
            raise LayerError("needs shrink_factor, zoom_factor, or height and width")
        if self.fixed is None and min(self.shrink, self.zoom) < 1:
            raise LayerError("shrink_factor and zoom_factor must be at least 1")

    def _resized(self, length: int) -> int:
        shrunk = (length - 1) // self.shrink + 1
        return shrunk + (shrunk - 1) * (self.zoom - 1)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        if len(bottom_shapes[0]) != 4:
            raise LayerError(f"takes a bottom (N, C, H, W), not {tuple(bottom_shapes[0])}")
        n, channels, *size = bottom_shapes[0]
        cropped = [length - self.begin - self.end for length in size]
        if min(cropped) < 1:
            raise LayerError(f"cropping leaves nothing of {size[0]} x {size[1]} cells")
        out = self.fixed or [self._resized(length) for length in cropped]
        if min(out) < 1:
            raise LayerError(f"the output would have {out[0]} x {out[1]} cells")
        check_shape("the top", (n, channels, *out))
        return [(n, channels, *out)]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        height, width = bottom.shape[2:]
        cropped = bottom[:, :, self.begin : height - self.end, self.begin : width - self.end]
        out = self.top_shapes([tuple(bottom.shape)])[0][2:]
        return F.interpolate(cropped, list(out), mode="bilinear", align_corners=True)
