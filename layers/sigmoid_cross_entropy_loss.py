"""SigmoidCrossEntropyLoss of BVLC Caffe, and with the weights of MNC's fork."""

from __future__ import annotations

import math

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers import functional as F
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.softmax_loss import check_first_axes, normalizer, read_stock_normalization
from caffe_bridge.registry import register


@register("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Layer):
    """Cross entropy of independent binary predictions: bottoms logits and targets [N, ...], as many of each.

    With two bottoms the sum over targets other than loss_param.ignore_label is divided as loss_param.normalization
    says; unlike SoftmaxWithLoss the default is BATCH_SIZE. With a third bottom, weights (MNC's fork), the weighted
    sum is divided by the sum of the weights and loss_param is not read. Where that sum is not positive the loss keeps
    the value of the previous forward pass, 0 at first.
    """

    bottoms = (2, 3)
    previous: torch.Tensor
    auto_tops = True
    is_loss = True
    no_gradient = (1,)
    constants = (2,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        loss = self.param.loss_param
        chosen = loss.HasField("normalization") or loss.HasField("normalize")
        self.normalization = read_stock_normalization(loss) if chosen else "BATCH_SIZE"
        self.ignored = loss.ignore_label if loss.HasField("ignore_label") else None
        self.register_buffer("previous", torch.zeros(()), persistent=False)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        check_first_axes(bottom_shapes)
        if len({math.prod(shape) for shape in bottom_shapes}) > 1:
            raise LayerError(f"takes bottoms of one size, got {', '.join(str(tuple(s)) for s in bottom_shapes)}")
        return [()]

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        if weights is not None:
            loss = F.sigmoid_cross_entropy_loss(logits, targets, weights, self.previous)
            with torch.no_grad():
                self.previous.copy_(loss)
            return loss
        targets = targets.reshape(logits.shape)
        kept = None
        if self.ignored is not None:
            seen = targets.trunc() != self.ignored
            logits, kept = logits.where(seen, 0), seen.to(logits.dtype)
        total, count = F.sigmoid_cross_entropy_terms(logits, targets, kept)
        return total / normalizer(self.normalization, logits.shape[0], logits.shape[1:].numel(), count)
