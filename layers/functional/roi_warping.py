"""RoI warping: differentiable cropping, the layer ROIWarping of MNC's Caffe fork (arXiv:1512.04412, section 3.3)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.functional import _rois
from caffe_bridge.layers.functional._library import gradient, in_float, operation

Gradient = Literal["published", "exact"]


def is_exact(gradient: str) -> bool:
    """Whether a `gradient` argument asks for true derivatives; raises LayerError unless it is one of the two."""
    if gradient not in ("published", "exact"):
        raise LayerError(f"gradient must be 'published' or 'exact', got {gradient!r}")
    return gradient == "exact"


def roi_warping(
    features: torch.Tensor,
    rois: torch.Tensor,
    pooled_size: int | tuple[int, int],
    spatial_scale: float,
    gradient: Gradient = "published",
) -> torch.Tensor:
    """Crop each RoI to a fixed size by bilinear sampling, differentiable in the features and in the RoIs.

    Args:
        features (Tensor[N, C, H, W]): feature maps.
        rois (Tensor[R, 5]): (batch index, x1, y1, x2, y2) in scaled-image pixels.
        pooled_size: height and width PH, PW of the output, or one number for both.
        spatial_scale: feature cells per scaled-image pixel, 1/16 for VGG-16's conv5_3.
        gradient: "published" for the gradients of the fork, "exact" for the derivatives of the forward pass.

    Returns:
        Tensor[R, C, PH, PW]

    Coordinates are scaled and rounded half away from zero to cells. Sample (i, j) is taken at
    (y1 + i * (y2 - y1) / PH, x1 + j * (x2 - x1) / PW): at cell corners, never reaching the far edge. A RoI that
    ends before it starts repeats its start. Samples more than half a cell outside the map are 0.

    Note:
        The fork's gradient to the features drops part of the samples that touched a cell (about 30 %), and its
        gradient to the RoIs measures the RoI one cell too large, gives the last row and column none, and takes a
        sample outside the map for one at cell (-1, -1), reading what lies before the channel's plane in memory (0
        before the first). "exact" is the derivative with respect to the rounded coordinates, with rounding itself
        passed through; there a sample outside the map contributes nothing.

    Raises:
        LayerError: wrong shapes or dtypes, a pooled size that is not positive, and on the CPU a RoI that is not
            finite or names an image outside the batch (on other devices such a row gives 0).
    """
    _rois.check(features, rois)
    pooled_h, pooled_w = _rois.pair(pooled_size)
    exact = is_exact(gradient)
    values = in_float(features)
    cells = _rois.ToCells.apply(rois.to(values.dtype), float(spatial_scale))
    return torch.ops.caffe_bridge.roi_warping(values, cells, pooled_h, pooled_w, exact).to(features.dtype)


def _axes(cells: torch.Tensor, pooled_h: int, pooled_w: int) -> tuple[tuple[torch.Tensor, torch.Tensor, int], ...]:
    return (cells[:, 2:3], cells[:, 4:5], pooled_h), (cells[:, 1:2], cells[:, 3:4], pooled_w)


def _samples(start: torch.Tensor, end: torch.Tensor, pooled: int, size: int) -> _rois.Samples:
    bins = (end - start).clamp(min=0) / pooled
    return _rois.sample_axis(start + torch.arange(pooled, dtype=start.dtype, device=start.device) * bins, size)


def _backward_bin(start: torch.Tensor, end: torch.Tensor, pooled: int) -> torch.Tensor:
    return (end - start + 1).clamp(min=1) / pooled


def _published(samples: _rois.Samples, start: torch.Tensor, end: torch.Tensor, pooled: int) -> _rois.Samples:
    """The samples with the weight of each cell dropped where the fork's backward pass does not look."""
    bins = _backward_bin(start, end, pooled)
    index = torch.arange(pooled, dtype=start.dtype, device=start.device)

    def kept(cell: torch.Tensor) -> torch.Tensor:
        offset = cell - start
        first, last = ((offset - 1) / bins - 1).floor(), ((offset + 1) / bins).ceil()
        return (cell >= start) & (cell <= end) & (index >= first) & (index < last)

    return dataclasses.replace(
        samples,
        low_weight=torch.where(kept(samples.low), samples.low_weight, 0),
        high_weight=torch.where(kept(samples.high), samples.high_weight, 0),
    )


def _motion(
    samples: _rois.Samples, start: torch.Tensor, end: torch.Tensor, pooled: int, size: int, exact: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How far samples move with `start` and with `end`, and which of them pass a coordinate gradient at all."""
    if exact:
        slope = samples.clamped.logical_not().to(start.dtype)
        index = torch.arange(pooled, dtype=start.dtype, device=start.device)
        by_end = torch.where(end >= start, slope * (index / pooled), 0)
        return slope - by_end, by_end, samples.inside
    by_end = (samples.position - start) / _backward_bin(start, end, pooled) / pooled
    return 1 - by_end, by_end, samples.inside & (samples.low + 1 <= size - 1)


def _corner(images: torch.Tensor, row: torch.Tensor, column: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Index into features flattened to (N * H * W, C), for every sample of every RoI."""
    return ((images[:, None, None] * height + row[:, :, None]) * width + column[:, None, :]).flatten()


def _fake(features, cells, pooled_h, pooled_w, exact):
    return features.new_empty(cells.shape[0], features.shape[1], pooled_h, pooled_w)


@operation("roi_warping(Tensor features, Tensor cells, int pooled_h, int pooled_w, bool exact) -> Tensor", _fake)
def _forward(features: torch.Tensor, cells: torch.Tensor, pooled_h: int, pooled_w: int, exact: bool) -> torch.Tensor:
    count, channels, height, width = features.shape
    top = features.new_zeros(cells.shape[0], channels, pooled_h, pooled_w)
    if features.numel() == 0:
        return top
    flat = features.permute(0, 2, 3, 1).reshape(-1, channels)
    readable, images = _rois.readable(cells, count), _rois.image_index(cells, count)
    rows, columns = (
        _samples(*axis, size) for axis, size in zip(_axes(cells, pooled_h, pooled_w), (height, width), strict=True)
    )
    for part in _rois.chunks(cells.shape[0], channels * pooled_h * pooled_w):
        y, x, n = rows.rows(part), columns.rows(part), images[part]

        def term(row, row_weight, column, column_weight, n=n):
            weight = (row_weight[:, :, None] * column_weight[:, None, :]).reshape(-1, 1)
            return weight * flat.index_select(0, _corner(n, row, column, height, width))

        value = term(y.low, y.low_weight, x.low, x.low_weight)
        value += term(y.low, y.low_weight, x.high, x.high_weight)
        value += term(y.high, y.high_weight, x.low, x.low_weight)
        value += term(y.high, y.high_weight, x.high, x.high_weight)
        value = value.view(-1, pooled_h, pooled_w, channels).permute(0, 3, 1, 2)
        seen = readable[part, None, None] & y.inside[:, :, None] & x.inside[:, None, :]
        top[part] = torch.where(seen[:, None], value, 0)
    return top


def _fake_features(grad, cells, images, height, width, exact):
    return grad.new_empty(images, grad.shape[1], height, width)


@operation(
    "roi_warping_backward_features(Tensor grad, Tensor cells, SymInt images, SymInt height, SymInt width, bool exact)"
    " -> Tensor",
    _fake_features,
)
def _backward_features(
    grad: torch.Tensor, cells: torch.Tensor, images: int, height: int, width: int, exact: bool
) -> torch.Tensor:
    channels, pooled_h, pooled_w = grad.shape[1:]
    flat = grad.new_zeros(images * height * width, channels)
    if flat.numel() == 0:
        return grad.new_zeros(images, channels, height, width)
    readable, index = _rois.readable(cells, images), _rois.image_index(cells, images)
    axes = []
    for (start, end, pooled), size in zip(_axes(cells, pooled_h, pooled_w), (height, width), strict=True):
        samples = _samples(start, end, pooled, size)
        axes.append(samples if exact else _published(samples, start, end, pooled))
    for part in _rois.chunks(cells.shape[0], channels * pooled_h * pooled_w):
        y, x = axes[0].rows(part), axes[1].rows(part)
        seen = readable[part, None, None] & y.inside[:, :, None] & x.inside[:, None, :]
        values = torch.where(seen[:, None], grad[part], 0).permute(0, 2, 3, 1).reshape(-1, channels)
        for row, row_weight in ((y.low, y.low_weight), (y.high, y.high_weight)):
            for column, column_weight in ((x.low, x.low_weight), (x.high, x.high_weight)):
                weight = (row_weight[:, :, None] * column_weight[:, None, :]).reshape(-1, 1)
                flat.index_add_(0, _corner(index[part], row, column, height, width), weight.nan_to_num() * values)
    return flat.view(images, height, width, channels).permute(0, 3, 1, 2).contiguous()


def _fake_rois(grad, features, cells, exact):
    return torch.empty_like(cells)


@operation("roi_warping_backward_rois(Tensor grad, Tensor features, Tensor cells, bool exact) -> Tensor", _fake_rois)
def _backward_rois(grad: torch.Tensor, features: torch.Tensor, cells: torch.Tensor, exact: bool) -> torch.Tensor:
    count, channels, height, width = features.shape
    pooled_h, pooled_w = grad.shape[2:]
    result = cells.new_zeros(cells.shape)
    if features.numel() == 0:
        return result
    flat = features.permute(0, 2, 3, 1).reshape(-1, channels)
    readable, images = _rois.readable(cells, count), _rois.image_index(cells, count)
    y_axis, x_axis = _axes(cells, pooled_h, pooled_w)
    rows, columns = _samples(*y_axis, height), _samples(*x_axis, width)
    y_start, y_end, y_moves = _motion(rows, *y_axis, height, exact)
    x_start, x_end, x_moves = _motion(columns, *x_axis, width, exact)
    for part in _rois.chunks(cells.shape[0], channels * pooled_h * pooled_w):
        y, x, n = rows.rows(part), columns.rows(part), images[part]
        top = grad[part].permute(0, 2, 3, 1)
        v00, v01, v10, v11 = (
            flat.index_select(0, _corner(n, row, column, height, width)).view(top.shape)
            for row in (y.low, y.high)
            for column in (x.low, x.high)
        )

        def along(low_step, high_step, low_weight, high_weight, top=top):
            return (top * (low_weight * low_step + high_weight * high_step)).sum(3, dtype=torch.float64)

        dx = along(v01 - v00, v11 - v10, y.low_weight[:, :, None, None], y.high_weight[:, :, None, None])
        dy = along(v10 - v00, v11 - v01, x.low_weight[:, None, :, None], x.high_weight[:, None, :, None])
        moves = readable[part, None, None] & y_moves[part][:, :, None] & x_moves[part][:, None, :]
        dx, dy = torch.where(moves, dx, 0), torch.where(moves, dy, 0)
        for column, values in (
            (1, x_start[part][:, None, :] * dx),
            (2, y_start[part][:, :, None] * dy),
            (3, x_end[part][:, None, :] * dx),
            (4, y_end[part][:, :, None] * dy),
        ):
            result[part, column] = torch.where(moves, values, 0).sum((1, 2)).to(result.dtype)
        if not exact:
            outside = readable[part, None, None] & ~(y.inside[:, :, None] & x.inside[:, None, :])
            dx, dy = _foreign_slopes(features, images[part], torch.where(outside[:, None], grad[part], 0))
            x_move, y_move = (
                (-1 - start[part, 0]) / (end - start + 1).clamp(min=1)[part, 0] for start, end, _ in (x_axis, y_axis)
            )
            foreign = torch.stack([(1 - x_move) * dx, (1 - y_move) * dy, x_move * dx, y_move * dy], 1)
            result[part, 1:] += torch.where(readable[part, None], foreign, 0).to(result.dtype)
    return result


def _foreign_slopes(
    features: torch.Tensor, images: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the fork takes for the slopes of samples outside the map: values that lie before each channel's plane."""
    channels, height, width = features.shape[1:]
    flat = features.flatten()
    starts = (images[:, None] * channels + torch.arange(channels, device=images.device)) * (height * width)

    def before(offset: int) -> torch.Tensor:
        index = starts - offset
        return torch.where(index >= 0, flat[index.clamp(min=0)], 0)

    v00, v01, v10 = before(width + 1), before(width), before(1)
    total = grad.sum((2, 3), dtype=torch.float64)
    return (total * (v01 - v00)).sum(1), (total * (v10 - v00)).sum(1)


def _save(ctx, inputs, output) -> None:
    features, cells, _, _, ctx.exact = inputs
    ctx.save_for_backward(features, cells)


def _backward(ctx, grad):
    features, cells = ctx.saved_tensors
    ops = torch.ops.caffe_bridge
    to_features = to_cells = None
    if ctx.needs_input_grad[0]:
        images, _, height, width = features.shape
        to_features = ops.roi_warping_backward_features(grad, cells, images, height, width, ctx.exact)
    if ctx.needs_input_grad[1]:
        to_cells = ops.roi_warping_backward_rois(grad, features, cells, ctx.exact)
    return to_features, to_cells, None, None, None


gradient("roi_warping", _backward, _save)
