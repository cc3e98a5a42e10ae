"""Smooth L1 loss: the layer SmoothL1Loss of Fast R-CNN (arXiv:1504.08083, equation 3), with RPN's sigma."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.functional._library import gradient, in_float, operation


def smooth_l1_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    inside_weights: torch.Tensor | None = None,
    outside_weights: torch.Tensor | None = None,
    sigma: float = 1.0,
) -> torch.Tensor:
    """Sum of weighted smooth L1 errors divided by the length of the first axis.

    With d = inside * (prediction - target), an element costs outside * sigma^2 d^2 / 2 where |d| < 1 / sigma^2,
    and outside * (|d| - 1 / (2 sigma^2)) elsewhere.

    Args:
        prediction, target (Tensor[N, ...]): both get gradients, of opposite sign.
        inside_weights, outside_weights: of the same shape; 1 where absent; they get no gradient.
        sigma: where the quadratic part ends.

    Returns:
        scalar Tensor

    Raises:
        LayerError: tensors that differ in size, or that have no first axis.
    """
    given = (target, inside_weights, outside_weights)
    others = [tensor for tensor in given if tensor is not None]
    if prediction.dim() == 0 or any(tensor.numel() != prediction.numel() for tensor in others):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (prediction, *others))
        raise LayerError(f"smooth L1 loss needs tensors of one size, got {shapes}")
    values = in_float(prediction)
    rest = [None if tensor is None else tensor.to(values.dtype) for tensor in given]
    total = torch.ops.caffe_bridge.smooth_l1(values, *rest, float(sigma))
    return (total / max(prediction.shape[0], 1)).to(prediction.dtype)


def _difference(prediction: torch.Tensor, target: torch.Tensor, inside: torch.Tensor | None) -> torch.Tensor:
    difference = prediction - target.view_as(prediction)
    return difference if inside is None else inside.view_as(prediction) * difference


def _sigma2(sigma: float, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(sigma, dtype=like.dtype, device=like.device).square()


@operation(
    "smooth_l1(Tensor prediction, Tensor target, Tensor? inside, Tensor? outside, float sigma) -> Tensor",
    lambda prediction, target, inside, outside, sigma: prediction.new_empty(()),
)
def _forward(
    prediction: torch.Tensor,
    target: torch.Tensor,
    inside: torch.Tensor | None,
    outside: torch.Tensor | None,
    sigma: float,
) -> torch.Tensor:
    difference, sigma2 = _difference(prediction, target, inside), _sigma2(sigma, prediction)
    size = difference.abs()
    error = torch.where(size < 1 / sigma2, 0.5 * difference * difference * sigma2, size - 0.5 / sigma2)
    if outside is not None:
        error = outside.view_as(prediction) * error
    return error.sum(dtype=torch.float64).to(prediction.dtype)


@operation(
    "smooth_l1_backward(Tensor scale, Tensor prediction, Tensor target, Tensor? inside, Tensor? outside, float sigma)"
    " -> Tensor",
    lambda scale, prediction, *_: torch.empty_like(prediction, memory_format=torch.contiguous_format),
)
def _backward_prediction(
    scale: torch.Tensor,
    prediction: torch.Tensor,
    target: torch.Tensor,
    inside: torch.Tensor | None,
    outside: torch.Tensor | None,
    sigma: float,
) -> torch.Tensor:
    difference, sigma2 = _difference(prediction, target, inside), _sigma2(sigma, prediction)
    slope = torch.where(difference.abs() < 1 / sigma2, sigma2 * difference, difference.sign())
    for weights in (inside, outside):
        slope = slope if weights is None else weights.view_as(prediction) * slope
    return (scale * slope).contiguous()


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.sigma = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad):
    prediction, target, inside, outside = ctx.saved_tensors
    slope = torch.ops.caffe_bridge.smooth_l1_backward(grad, prediction, target, inside, outside, ctx.sigma)
    to_target = -slope.view_as(target) if ctx.needs_input_grad[1] else None
    return slope, to_target, None, None, None


gradient("smooth_l1", _backward, _save)
