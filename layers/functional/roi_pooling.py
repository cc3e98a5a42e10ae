"""RoI max pooling: the layer ROIPooling of Fast R-CNN (arXiv:1504.08083, section 2.1)."""

from __future__ import annotations

import torch

from caffe_bridge.layers.functional import _rois
from caffe_bridge.layers.functional._library import gradient, in_float, operation

# What Caffe starts a maximum from.
LOWEST = torch.finfo(torch.float32).min


def roi_pooling(
    features: torch.Tensor, rois: torch.Tensor, pooled_size: int | tuple[int, int], spatial_scale: float
) -> torch.Tensor:
    """Divide each RoI into a grid of bins and take the maximum of each.

    Args:
        features (Tensor[N, C, H, W]): feature maps.
        rois (Tensor[R, 5]): (batch index, x1, y1, x2, y2) in scaled-image pixels.
        pooled_size: height and width PH, PW of the output, or one number for both.
        spatial_scale: feature cells per scaled-image pixel.

    Returns:
        Tensor[R, C, PH, PW]; bins outside the map are 0.

    Coordinates are scaled, then rounded half away from zero; both corners belong to the RoI, which is at least one
    cell large. The gradient of a bin goes to its first maximum in row order; the RoIs get none. A RoI that ends
    before it starts pools one cell but passes no gradient.

    Raises:
        LayerError: as `roi_warping`.
    """
    _rois.check(features, rois)
    pooled_h, pooled_w = _rois.pair(pooled_size)
    values = in_float(features)
    cells = _rois.ToCells.apply(rois.detach().to(values.dtype), float(spatial_scale))
    return torch.ops.caffe_bridge.roi_pooling(values, cells, pooled_h, pooled_w)[0].to(features.dtype)


def _axes(cells: torch.Tensor, pooled_h: int, pooled_w: int) -> tuple[tuple[torch.Tensor, torch.Tensor, int], ...]:
    return (cells[:, 2:3], cells[:, 4:5], pooled_h), (cells[:, 1:2], cells[:, 3:4], pooled_w)


def _bin(start: torch.Tensor, end: torch.Tensor, pooled: int) -> torch.Tensor:
    return (end - start + 1).clamp(min=1) / pooled


def _cells(start: torch.Tensor, end: torch.Tensor, pooled: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First and past-the-end cell of every bin (R, pooled), clipped to the map."""
    index, bins = torch.arange(pooled, dtype=start.dtype, device=start.device), _bin(start, end, pooled)
    first, last = (index * bins).floor() + start, ((index + 1) * bins).ceil() + start
    first, last = (edge.nan_to_num().clamp(0, size).long() for edge in (first, last))
    return first, last


def _fake(features, cells, pooled_h, pooled_w):
    top = features.new_empty(cells.shape[0], features.shape[1], pooled_h, pooled_w)
    return top, torch.empty_like(top, dtype=torch.int32)


@operation("roi_pooling(Tensor features, Tensor cells, int pooled_h, int pooled_w) -> (Tensor, Tensor)", _fake)
def _forward(
    features: torch.Tensor, cells: torch.Tensor, pooled_h: int, pooled_w: int
) -> tuple[torch.Tensor, torch.Tensor]:
    count, channels, height, width = features.shape
    top = features.new_zeros(cells.shape[0], channels, pooled_h, pooled_w)
    argmax = torch.full_like(top, -1, dtype=torch.int32)
    if features.numel() == 0 or top.numel() == 0:
        return top, argmax
    flat = features.permute(0, 2, 3, 1).reshape(-1, channels)
    readable, images = _rois.readable(cells, count), _rois.image_index(cells, count)
    (h0, h1), (w0, w1) = (
        _cells(*axis, size) for axis, size in zip(_axes(cells, pooled_h, pooled_w), (height, width), strict=True)
    )
    for part in _rois.chunks(cells.shape[0], channels * pooled_h * pooled_w):
        filled = ((h1 > h0)[part, :, None] & (w1 > w0)[part, None, :] & readable[part, None, None])[..., None]
        value = torch.where(filled, LOWEST, 0.0).to(flat.dtype).expand(-1, -1, -1, channels)
        index = torch.full_like(value, -1, dtype=torch.int32)
        tallest, widest = int((h1 - h0)[part].max()), int((w1 - w0)[part].max())
        for step in range(max(tallest, 0) * max(widest, 0)):
            row, column = h0[part] + step // widest, w0[part] + step % widest
            cell = row.clamp(max=height - 1)[:, :, None] * width + column.clamp(max=width - 1)[:, None, :]
            here = flat.index_select(0, (images[part, None, None] * (height * width) + cell).flatten())
            here = here.view(*cell.shape, channels)
            in_bin = (row < h1[part])[:, :, None] & (column < w1[part])[:, None, :]
            more = (in_bin[..., None] & filled) & (here > value)
            value = torch.where(more, here, value)
            index = torch.where(more, cell[..., None].int(), index)
        top[part], argmax[part] = value.permute(0, 3, 1, 2), index.permute(0, 3, 1, 2)
    return top, argmax


def _fake_backward(grad, argmax, cells, images, height, width):
    return grad.new_empty(images, grad.shape[1], height, width)


@operation(
    "roi_pooling_backward(Tensor grad, Tensor argmax, Tensor cells, SymInt images, SymInt height, SymInt width)"
    " -> Tensor",
    _fake_backward,
)
def _backward_features(
    grad: torch.Tensor, argmax: torch.Tensor, cells: torch.Tensor, images: int, height: int, width: int
) -> torch.Tensor:
    channels, pooled_h, pooled_w = grad.shape[1:]
    result = grad.new_zeros(images * channels * height * width)
    if result.numel() == 0:
        return result.view(images, channels, height, width)
    axes = _axes(cells, pooled_h, pooled_w)
    planes = _rois.image_index(cells, images)[:, None] * channels + torch.arange(channels, device=cells.device)
    readable = _rois.readable(cells, images)

    def accepts(cell: torch.Tensor, axis: tuple[torch.Tensor, torch.Tensor, int], index: torch.Tensor) -> torch.Tensor:
        start, end, bins = (edge[:, :, None, None] for edge in (*axis[:2], _bin(*axis)))
        first, last = ((cell - start) / bins).floor(), ((cell - start + 1) / bins).ceil()
        return (cell >= start) & (cell <= end) & (index >= first) & (index < last)

    rows = torch.arange(pooled_h, device=cells.device)[:, None]
    columns = torch.arange(pooled_w, device=cells.device)
    for part in _rois.chunks(cells.shape[0], channels * pooled_h * pooled_w):
        cell = argmax[part].long()
        known = (cell >= 0) & (cell < height * width) & readable[part, None, None, None]
        cell = torch.where(known, cell, 0)
        y_axis, x_axis = ((start[part], end[part], pooled) for start, end, pooled in axes)
        served = known & accepts(cell // width, y_axis, rows) & accepts(cell % width, x_axis, columns)
        index = planes[part, :, None, None] * (height * width) + cell
        result.index_put_((index[served],), grad[part][served], accumulate=True)
    return result.view(images, channels, height, width)


def _save(ctx, inputs, output) -> None:
    features, cells, _, _ = inputs
    ctx.shape = features.shape
    ctx.save_for_backward(output[1], cells)


def _backward(ctx, grad, _):
    argmax, cells = ctx.saved_tensors
    images, _, height, width = ctx.shape
    result = torch.ops.caffe_bridge.roi_pooling_backward(grad, argmax, cells, images, height, width)
    return result, None, None, None


gradient("roi_pooling", _backward, _save)
