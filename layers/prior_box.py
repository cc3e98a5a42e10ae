"""PriorBox of SSD."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, check_shape
from caffe_bridge.registry import register


def aspect_ratios(given: list[float], flip: bool) -> list[float]:
    """1, then each given ratio (width / height) that is not there yet, each followed by its inverse if `flip`."""
    ratios = [1.0]
    for ratio in given:
        if ratio <= 0:
            raise LayerError(f"aspect_ratio must be positive, got {ratio:g}")
        if all(abs(ratio - other) >= 1e-6 for other in ratios):
            ratios += [ratio, float(np.float32(1 / ratio))] if flip else [ratio]
    return ratios


def prior_sizes(min_sizes: list[float], max_sizes: list[float], ratios: list[float]) -> list[tuple[float, float]]:
    """(width, height) in pixels of the priors of one cell; the sizes are truncated to integers, as SSD does."""
    sizes = []
    for low, high in itertools.zip_longest(map(int, min_sizes), map(int, max_sizes)):
        sides = [low] if high is None else [low, (low * high) ** 0.5]
        sizes += [(side, side) for side in sides]
        sizes += [(low * ratio**0.5, low / ratio**0.5) for ratio in ratios if abs(ratio - 1) >= 1e-6]
    return sizes


@register("PriorBox", source="SSD")
class PriorBox(Layer):
    """The default boxes of a feature map and their variances, (1, 2, 4 * H * W * K), for K boxes a cell.

    Bottoms: the feature map (N, C, H, W) and the image, of which only the sizes are read. Boxes are in fractions of
    the image; cells run row by row. For each min_size there is a square of that side, one of side
    sqrt(min_size * max_size) if max sizes are given, and a box of the same area for every aspect ratio but 1.
    """

    bottoms = (2, 2)
    constants = Layer.ALL_BOTTOMS

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.prior_box_param
        low, high = list(param.min_size), list(param.max_size)
        if not low or min(low) <= 0:
            raise LayerError("needs at least one min_size, each above 0")
        if high and (len(high) != len(low) or any(b <= a for a, b in zip(low, high))):
            raise LayerError(f"max_size is given for each min_size ({len(low)}) and above it, or not at all")
        self.sizes = prior_sizes(low, high, aspect_ratios(list(param.aspect_ratio), param.flip))
        self.variances = list(param.variance) or [0.1]
        if len(self.variances) not in (1, 4) or min(self.variances) <= 0:
            raise LayerError(f"variance is given once or four times and above 0, not {self.variances}")
        self.image_size = _pair(param, "img", "img_size")
        self.step = _pair(param, "step", "step")
        self.offset, self.clip = param.offset, param.clip

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        if any(len(shape) != 4 for shape in bottom_shapes):
            raise LayerError("takes a feature map and an image with four axes each")
        height, width = bottom_shapes[0][2:]
        if not height or not width:
            raise LayerError("has no cell to put boxes in")
        shape = (1, 2, height * width * len(self.sizes) * 4)
        check_shape("the top", shape)
        return [shape]

    def forward(self, features: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        cells = features.shape[2:]
        image_size = self.image_size or image.shape[2:]
        device = features.device
        centres = []
        for count, length, step in zip(cells, image_size, self.step or (None, None)):
            # Caffe keeps centres and steps in single precision, and sums in double.
            apart = np.float32(length) / np.float32(count) if step is None else np.float32(step)
            centres.append((torch.arange(count, dtype=torch.float32, device=device) + self.offset) * float(apart))
        y, x = (axis.double() for axis in torch.meshgrid(*centres, indexing="ij"))
        half = torch.tensor(self.sizes, dtype=torch.float32, device=device).double() / 2
        centre = torch.stack([x, y], -1)[:, :, None]
        boxes = torch.cat([centre - half, centre + half], -1)
        boxes = boxes / torch.tensor([*image_size[::-1]] * 2, dtype=torch.float64, device=device)
        boxes = boxes.to(features.dtype).reshape(-1, 4)
        if self.clip:
            boxes = boxes.clamp(0, 1)
        variances = torch.tensor(self.variances, dtype=features.dtype, device=device).expand(boxes.shape)
        return torch.stack([boxes.flatten(), variances.flatten()])[None]


def _pair(param: Any, name: str, single: str) -> tuple[float, float] | None:
    """(NAME_h, NAME_w), or the field `single` twice, or None where neither is given."""
    sides = (f"{name}_h", f"{name}_w")
    if any(param.HasField(side) for side in sides):
        if param.HasField(single):
            raise LayerError(f"give {single}, or {sides[0]} and {sides[1]}, not both")
        pair = (getattr(param, sides[0]), getattr(param, sides[1]))
    elif param.HasField(single):
        pair = (getattr(param, single),) * 2
    else:
        return None
    if min(pair) <= 0:
        raise LayerError(f"{single}, or both {sides[0]} and {sides[1]}, must be above 0")
    return pair
