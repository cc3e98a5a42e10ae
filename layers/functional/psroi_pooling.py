"""Position-sensitive RoI pooling: the layer PSROIPooling of R-FCN (arXiv:1605.06409, section 2)."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.functional import _rois
from caffe_bridge.layers.functional._library import gradient, in_float, operation


def psroi_pooling(
    features: torch.Tensor, rois: torch.Tensor, output_dim: int, group_size: int, spatial_scale: float
) -> torch.Tensor:
    """Average each bin of a RoI over the score map that belongs to the bin's position.

    Args:
        features (Tensor[N, output_dim * G * G, H, W]): score maps; channel (c * G + i) * G + j serves bin (i, j)
            of output channel c.
        rois (Tensor[R, 5]): (batch index, x1, y1, x2, y2) in scaled-image pixels.
        output_dim: channels of the output.
        group_size: bins per side, G.
        spatial_scale: feature cells per scaled-image pixel.

    Returns:
        Tensor[R, output_dim, G, G]; bins outside the map are 0.

    Unlike `roi_pooling`, coordinates are rounded before they are scaled, and the RoI is at least 0.1 cells large.
    The RoIs get no gradient.

    Raises:
        LayerError: as `roi_warping`, and when the channels are not output_dim * group_size squared.
    """
    _rois.check(features, rois)
    if output_dim <= 0 or group_size <= 0 or features.shape[1] != output_dim * group_size**2:
        raise LayerError(
            f"output_dim {output_dim} and group_size {group_size} need {output_dim * group_size**2} channels, "
            f"the features have {features.shape[1]}"
        )
    values = in_float(features)
    rois = rois.detach().to(values.dtype)
    result = torch.ops.caffe_bridge.psroi_pooling(values, rois, output_dim, group_size, float(spatial_scale))
    return result.to(features.dtype)


def _edges(
    first: torch.Tensor, last: torch.Tensor, scale: float, group: int, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """First and past-the-end cell of every bin (R, group), clipped to the map."""
    start, end = _rois.round_away(first) * scale, (_rois.round_away(last) + 1) * scale
    bins = (end - start).clamp(min=0.1) / group
    index = torch.arange(group, dtype=first.dtype, device=first.device)
    edges = (index * bins + start).floor(), ((index + 1) * bins + start).ceil()
    first, last = (edge.nan_to_num().clamp(0, size).long() for edge in edges)
    return first, last


def _windows(rois: torch.Tensor, images: int, group: int, scale: float, height: int, width: int):
    """Per bin (R, group, group): the four corners of its window in a map padded to (H + 1, W + 1), and its area."""
    h0, h1 = _edges(rois[:, 2:3], rois[:, 4:5], scale, group, height)
    w0, w1 = _edges(rois[:, 1:2], rois[:, 3:4], scale, group, width)
    area = (h1 - h0).clamp(min=0)[:, :, None] * (w1 - w0).clamp(min=0)[:, None, :]
    area = torch.where(_rois.readable(rois, images)[:, None, None], area, 0)
    corners = [row[:, :, None] * (width + 1) + column[:, None, :] for row in (h0, h1) for column in (w0, w1)]
    return corners, area


def _planes(rois: torch.Tensor, images: int, output_dim: int, group: int) -> torch.Tensor:
    """Index of the feature plane each output bin (R, output_dim, group, group) reads."""
    channel = torch.arange(output_dim * group * group, device=rois.device).view(1, output_dim, group, group)
    return _rois.image_index(rois, images)[:, None, None, None] * (output_dim * group * group) + channel


def _fake(features, rois, output_dim, group_size, spatial_scale):
    return features.new_empty(rois.shape[0], output_dim, group_size, group_size)


@operation(
    "psroi_pooling(Tensor features, Tensor rois, int output_dim, int group_size, float spatial_scale) -> Tensor", _fake
)
def _forward(
    features: torch.Tensor, rois: torch.Tensor, output_dim: int, group_size: int, spatial_scale: float
) -> torch.Tensor:
    images, _, height, width = features.shape
    if features.numel() == 0:
        return features.new_zeros(rois.shape[0], output_dim, group_size, group_size)
    table = torch.nn.functional.pad(features.double(), (1, 0, 1, 0)).cumsum(2).cumsum(3).flatten()
    corners, area = _windows(rois, images, group_size, spatial_scale, height, width)
    first = _planes(rois, images, output_dim, group_size) * ((height + 1) * (width + 1))
    upper_left, upper_right, lower_left, lower_right = (table[first + corner[:, None]] for corner in corners)
    total = lower_right - lower_left - upper_right + upper_left
    mean = total / area.clamp(min=1)[:, None]
    return torch.where(area[:, None] > 0, mean, 0).to(features.dtype)


def _fake_backward(grad, rois, spatial_scale, images, height, width):
    return grad.new_empty(images, grad.shape[1] * grad.shape[2] * grad.shape[3], height, width)


@operation(
    "psroi_pooling_backward(Tensor grad, Tensor rois, float spatial_scale, SymInt images, SymInt height, SymInt width)"
    " -> Tensor",
    _fake_backward,
)
def _backward_features(
    grad: torch.Tensor, rois: torch.Tensor, spatial_scale: float, images: int, height: int, width: int
) -> torch.Tensor:
    _, output_dim, group, _ = grad.shape
    channels = output_dim * group * group
    table = grad.new_zeros(images * channels * (height + 1) * (width + 1), dtype=torch.float64)
    if table.numel() == 0:
        return grad.new_zeros(images, channels, height, width)
    corners, area = _windows(rois, images, group, spatial_scale, height, width)
    first = _planes(rois, images, output_dim, group) * ((height + 1) * (width + 1))
    each = torch.where(area[:, None] > 0, grad.double() / area.clamp(min=1)[:, None], 0)
    for corner, sign in zip(corners, (1, -1, -1, 1), strict=True):
        table.index_put_((first + corner[:, None],), sign * each, accumulate=True)
    table = table.view(images, channels, height + 1, width + 1).cumsum(2).cumsum(3)
    return table[:, :, :height, :width].to(grad.dtype).contiguous()


def _save(ctx, inputs, output) -> None:
    features, rois, _, _, ctx.spatial_scale = inputs
    ctx.shape = features.shape
    ctx.save_for_backward(rois)


def _backward(ctx, grad):
    (rois,) = ctx.saved_tensors
    images, _, height, width = ctx.shape
    result = torch.ops.caffe_bridge.psroi_pooling_backward(grad, rois, ctx.spatial_scale, images, height, width)
    return result, None, None, None, None


gradient("psroi_pooling", _backward, _save)
