"""What the RoI operations share: arguments, rounding to feature cells, bilinear sampling along one axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch

from caffe_bridge.errors import LayerError

# Elements of the largest temporary a pure-torch twin makes at once.
CHUNK_ELEMENTS = 1 << 23


def pair(size: int | tuple[int, int], what: str = "pooled size") -> tuple[int, int]:
    """(height, width) of an argument that is one number or two; raises LayerError unless both are positive."""
    height, width = (size, size) if isinstance(size, int) else size
    if height <= 0 or width <= 0:
        raise LayerError(f"{what} must be positive, got {height} x {width}")
    return height, width


def check(features: torch.Tensor, rois: torch.Tensor) -> None:
    """Refuse features that are not (N, C, H, W) floats and RoIs that are not (R, 5) with rows one can read.

    Rows are looked at on the CPU only, where it costs no synchronisation; elsewhere, and under torch.compile,
    the kernels treat a bad row as empty.
    """
    if features.dim() != 4 or not features.is_floating_point():
        raise LayerError(f"features must be (N, C, H, W) of floats, got {_describe(features)}")
    if rois.dim() != 2 or rois.shape[1] != 5 or not rois.is_floating_point():
        raise LayerError(f"RoIs must be (R, 5) of floats, got {_describe(rois)}")
    if features.device != rois.device:
        raise LayerError(f"features are on {features.device}, RoIs on {rois.device}")
    if rois.device.type != "cpu" or torch.compiler.is_compiling() or type(rois) is not torch.Tensor:
        return
    with torch.no_grad():
        good = torch.isfinite(rois).all(1) & (rois[:, 0] > -1) & (rois[:, 0] < features.shape[0])
        if not bool(good.all()):
            row = int(good.logical_not().nonzero()[0])
            values = ", ".join(f"{value:g}" for value in rois[row].tolist())
            raise LayerError(
                f"RoI row {row} ({values}) is not finite or names an image outside the batch of {features.shape[0]}"
            )


def _describe(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


def round_away(values: torch.Tensor) -> torch.Tensor:
    """Round half away from zero, as C's `round` does."""
    whole = values.trunc()
    return whole + torch.where((values - whole).abs() >= 0.5, values.sign(), 0)


class ToCells(torch.autograd.Function):
    """RoIs of image pixels as RoIs of feature cells: scaled, then rounded half away from zero.

    The gradient takes rounding for the identity and gives the batch index none.
    """

    @staticmethod
    def forward(rois: torch.Tensor, spatial_scale: float) -> torch.Tensor:
        return torch.cat([rois[:, :1], round_away(rois[:, 1:] * spatial_scale)], 1)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.spatial_scale = inputs[1]

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.cat([torch.zeros_like(grad[:, :1]), grad[:, 1:] * ctx.spatial_scale], 1), None


def readable(rois: torch.Tensor, images: int) -> torch.Tensor:
    """Which rows the kernels read: finite, with a batch index inside the batch."""
    return torch.isfinite(rois).all(1) & (rois[:, 0] > -1) & (rois[:, 0] < images)


def image_index(rois: torch.Tensor, images: int) -> torch.Tensor:
    """The batch index of each row, clamped into the batch so that it can be used to index."""
    return rois[:, 0].nan_to_num().clamp(0, max(images - 1, 0)).long()


def chunks(count: int, elements_each: int) -> Iterator[slice]:
    """Slices of `count` rows such that a temporary with `elements_each` elements a row stays bounded."""
    step = max(1, CHUNK_ELEMENTS // max(elements_each, 1))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


@dataclass(frozen=True)
class Samples:
    """Bilinear samples along one axis; all fields have the same shape. See sample_axis in csrc/common.h."""

    low: torch.Tensor
    high: torch.Tensor
    low_weight: torch.Tensor
    high_weight: torch.Tensor
    position: torch.Tensor
    inside: torch.Tensor
    clamped: torch.Tensor

    def rows(self, part: slice) -> Samples:
        """The samples of some of the RoIs."""
        return Samples(*(getattr(self, field.name)[part] for field in fields(self)))


def sample_axis(position: torch.Tensor, size: int) -> Samples:
    """Where positions (in cells) fall on an axis of `size` cells, and the weights of the two cells around them.

    Outside [-0.5, size - 0.5] nothing is read: both weights are 0.
    """
    inside = (position >= -0.5) & (position <= size - 0.5) & (size > 0)
    below = position < 0
    position = torch.where(inside, position, 0).clamp(min=0)
    low = position.long()
    last = low >= size - 1
    low = low.clamp(max=max(size - 1, 0))
    high = torch.where(last, low, low + 1)
    position = torch.where(last, low.to(position.dtype), position)
    high_weight = position - low
    low_weight = torch.where(inside, 1 - high_weight, 0)
    return Samples(low, high, low_weight, torch.where(inside, high_weight, 0), position, inside, below | last)
