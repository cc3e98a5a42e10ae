"""Bilinear mask resizing: the layer MaskResize of MNC's Caffe fork."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.functional import _rois
from caffe_bridge.layers.functional._library import gradient, in_float, operation
from caffe_bridge.layers.functional.roi_warping import Gradient, is_exact


def mask_resize(masks: torch.Tensor, size: int | tuple[int, int], gradient: Gradient = "published") -> torch.Tensor:
    """Resize masks by bilinear sampling without half-pixel offsets: output (i, j) is read at (i * H/OH, j * W/OW).

    Args:
        masks (Tensor[N, C, H, W]): masks.
        size: height and width OH, OW of the output, or one number for both.
        gradient: "published" for the fork's gradient, "exact" for the derivative.

    Returns:
        Tensor[N, C, OH, OW]

    Note:
        The published gradient looks at two outputs per axis for each input cell. That is all there are when
        masks shrink (MNC's 21 to 14); when they grow, contributions are lost.

    Raises:
        LayerError: wrong shape or dtype, or a size that is not positive.
    """
    if masks.dim() != 4 or not masks.is_floating_point():
        raise LayerError(f"masks must be (N, C, H, W) of floats, got {tuple(masks.shape)} of {masks.dtype}")
    height, width = _rois.pair(size, "mask size")
    return torch.ops.caffe_bridge.mask_resize(in_float(masks), height, width, is_exact(gradient)).to(masks.dtype)


def _matrix(from_size: int, to_size: int, like: torch.Tensor, as_gradient: bool, exact: bool) -> torch.Tensor:
    """(to_size, from_size): how much of each input cell an output reads, or, `as_gradient`, gives back."""
    ratio = torch.tensor(from_size, dtype=like.dtype, device=like.device) / to_size
    position = torch.arange(to_size, dtype=like.dtype, device=like.device) * ratio
    samples = _rois.sample_axis(position, from_size)
    matrix = like.new_zeros(to_size, from_size)
    if from_size == 0:
        return matrix
    matrix.scatter_(1, samples.low[:, None], samples.low_weight[:, None])
    matrix.scatter_add_(1, samples.high[:, None], samples.high_weight[:, None])
    if as_gradient and not exact:
        cell = torch.arange(from_size, dtype=like.dtype, device=like.device)
        first = (cell / ratio).floor()
        output = torch.arange(to_size, dtype=like.dtype, device=like.device)[:, None]
        examined = (output >= first) & (output <= first + 1) & ((position[:, None] - cell).abs() < 1)
        matrix = torch.where(examined, matrix, 0)
    return matrix


def _fake(masks, height, width, exact):
    return masks.new_empty(*masks.shape[:2], height, width)


@operation("mask_resize(Tensor masks, int height, int width, bool exact) -> Tensor", _fake)
def _forward(masks: torch.Tensor, height: int, width: int, exact: bool) -> torch.Tensor:
    rows = _matrix(masks.shape[2], height, masks, False, exact)
    columns = _matrix(masks.shape[3], width, masks, False, exact)
    return (rows @ masks @ columns.T).contiguous()


def _fake_backward(grad, height, width, exact):
    return grad.new_empty(*grad.shape[:2], height, width)


@operation("mask_resize_backward(Tensor grad, SymInt height, SymInt width, bool exact) -> Tensor", _fake_backward)
def _backward_masks(grad: torch.Tensor, height: int, width: int, exact: bool) -> torch.Tensor:
    rows = _matrix(height, grad.shape[2], grad, True, exact)
    columns = _matrix(width, grad.shape[3], grad, True, exact)
    return (rows.T @ grad @ columns).contiguous()


def _save(ctx, inputs, output) -> None:
    masks, _, _, ctx.exact = inputs
    ctx.size = masks.shape[2:]


def _backward(ctx, grad):
    return torch.ops.caffe_bridge.mask_resize_backward(grad, *ctx.size, ctx.exact), None, None, None


gradient("mask_resize", _backward, _save)
