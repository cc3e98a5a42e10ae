"""Sigmoid cross entropy: the layer SigmoidCrossEntropyLoss of BVLC Caffe, with the weights of MNC's fork."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.functional._library import gradient, in_float, operation


def sigmoid_cross_entropy_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None = None,
    previous: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """Cross entropy between sigmoid(logits) and targets.

    Without weights the sum is divided by the length of the first axis. With weights, the weighted sum is divided
    by the sum of the weights; where that is not positive the loss is `previous` and the gradient
    weight * (sigmoid(logit) - target), unscaled, as in the fork.

    Args:
        logits (Tensor[N, ...]): get the gradient.
        targets: as many values; in [0, 1].
        weights: as many values, or None.
        previous: the value of the loss when the weights do not sum to a positive number.

    Returns:
        scalar Tensor

    Raises:
        LayerError: tensors that differ in size, or that have no first axis.
    """
    total, weight = sigmoid_cross_entropy_terms(logits, targets, weights)
    if weights is None:
        return (total / max(logits.shape[0], 1)).to(logits.dtype)
    previous = torch.as_tensor(previous, dtype=total.dtype, device=total.device)
    return _PerWeight.apply(total, weight, previous).to(logits.dtype)


def sigmoid_cross_entropy_terms(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum of the terms, differentiable in the logits, and the sum of the weights (their number)."""
    others = [tensor for tensor in (targets, weights) if tensor is not None]
    if logits.dim() == 0 or any(tensor.numel() != logits.numel() for tensor in others):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (logits, *others))
        raise LayerError(f"sigmoid cross entropy needs tensors of one size, got {shapes}")
    values = in_float(logits)
    weights = None if weights is None else weights.detach().to(values.dtype)
    return torch.ops.caffe_bridge.sigmoid_cross_entropy(values, targets.detach().to(values.dtype), weights)


class _PerWeight(torch.autograd.Function):
    """total / weight, or `previous` with the gradient 1 where the weight is not positive."""

    @staticmethod
    def forward(total: torch.Tensor, weight: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        return torch.where(weight > 0, total / weight, previous)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return torch.where(weight > 0, grad / weight, 1), None, None


@operation(
    "sigmoid_cross_entropy(Tensor logits, Tensor targets, Tensor? weights) -> (Tensor, Tensor)",
    lambda logits, targets, weights: (logits.new_empty(()), logits.new_empty(())),
)
def _forward(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    terms = logits.clamp(min=0) - logits * targets.view_as(logits) + (-logits.abs()).exp().log1p()
    weights = torch.ones_like(logits) if weights is None else weights.view_as(logits)
    sums = (weights * terms).sum(dtype=torch.float64), weights.sum(dtype=torch.float64)
    return sums[0].to(logits.dtype), sums[1].to(logits.dtype)


@operation(
    "sigmoid_cross_entropy_backward(Tensor scale, Tensor logits, Tensor targets, Tensor? weights) -> Tensor",
    lambda scale, logits, targets, weights: torch.empty_like(logits, memory_format=torch.contiguous_format),
)
def _backward_logits(
    scale: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    slope = logits.sigmoid() - targets.view_as(logits)
    slope = slope if weights is None else weights.view_as(logits) * slope
    return (scale * slope).contiguous()


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad, _):
    return torch.ops.caffe_bridge.sigmoid_cross_entropy_backward(grad, *ctx.saved_tensors), None, None


gradient("sigmoid_cross_entropy", _backward, _save)
