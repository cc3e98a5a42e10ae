"""MultinomialLogisticLoss."""

from __future__ import annotations

import math
from typing import Any

import torch

from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.labels import check_labels, read_labels
from caffe_bridge.layers.softmax_loss import check_first_axes
from caffe_bridge.registry import register

LOG_THRESHOLD = 1e-20


class _ClampedLog(torch.autograd.Function):
    """log(max(p, 1e-20)) with Caffe's gradient, 1 / max(p, 1e-20) below the threshold as well."""

    @staticmethod
    def forward(ctx: Any, prob: torch.Tensor) -> torch.Tensor:
        clamped = prob.clamp(min=LOG_THRESHOLD)
        ctx.save_for_backward(clamped)
        return clamped.log()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (clamped,) = ctx.saved_tensors
        return grad / clamped


@register("MultinomialLogisticLoss")
class MultinomialLogisticLoss(Layer):
    """The mean over images of -log(probability of the label); probabilities below 1e-20 count as 1e-20.

    Bottoms: probabilities (num, ...), where everything but axis 0 counts as classes; one label per image.
    """

    bottoms = (2, 2)
    auto_tops = True
    is_loss = True
    no_gradient = (1,)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        check_first_axes(bottom_shapes)
        prob, labels = bottom_shapes
        check_labels((prob[0], math.prod(prob[1:])), labels, 1)
        return [()]

    def forward(self, prob: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        num = prob.shape[0]
        flat = prob.reshape(num, math.prod(prob.shape[1:]))
        index, known = read_labels(labels, tuple(flat.shape), 1, None)
        return -_ClampedLog.apply(flat.gather(1, index)).where(known, 0).sum() / num
