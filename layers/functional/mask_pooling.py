"""Mask pooling: the layer MaskPooling of MNC's Caffe fork (arXiv:1512.04412, section 3.4)."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.functional._library import gradient, in_float, operation


def mask_pooling(features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Multiply features by a mask shared by all channels; the mask is continuous, not thresholded.

    Args:
        features (Tensor[N, C, H, W]): features of N RoIs.
        masks (Tensor[N, 1, H, W]): their masks.

    Returns:
        Tensor[N, C, H, W]

    Raises:
        LayerError: shapes that do not fit each other, or dtypes that are not floats.
    """
    fits = features.dim() == 4 and masks.shape == (features.shape[0], 1, *features.shape[2:])
    if not fits or not features.is_floating_point() or not masks.is_floating_point():
        raise LayerError(
            f"features (N, C, H, W) need masks (N, 1, H, W), got {tuple(features.shape)} and {tuple(masks.shape)}"
        )
    values = in_float(features)
    return torch.ops.caffe_bridge.mask_pooling(values, masks.to(values.dtype)).to(features.dtype)


def _fake(features, masks):
    return torch.empty_like(features, memory_format=torch.contiguous_format)


@operation("mask_pooling(Tensor features, Tensor masks) -> Tensor", _fake)
def _forward(features: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    return (features * masks).contiguous()


def _fake_backward(grad, features, masks):
    return _fake(features, masks), _fake(masks, None)


@operation("mask_pooling_backward(Tensor grad, Tensor features, Tensor masks) -> (Tensor, Tensor)", _fake_backward)
def _backward_both(
    grad: torch.Tensor, features: torch.Tensor, masks: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return (grad * masks).contiguous(), (grad * features).sum(1, keepdim=True).contiguous()


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    return torch.ops.caffe_bridge.mask_pooling_backward(grad, *ctx.saved_tensors)


gradient("mask_pooling", _backward, _save)
