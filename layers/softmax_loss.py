"""SoftmaxWithLoss, and the normalisation that Caffe's losses share."""

from __future__ import annotations

from typing import Any

import torch

from caffe_bridge import schema
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.labels import check_labels, read_labels
from caffe_bridge.registry import register

_FLT_MIN = torch.finfo(torch.float32).tiny


def read_normalization(param: Any) -> str:
    """The name of a LossParameter's mode: FULL, VALID (the default), BATCH_SIZE, NONE, or R-FCN's PRE_FIXED.

    The older `normalize` counts where `normalization` is absent: true is VALID, false BATCH_SIZE.
    """
    if param.HasField("normalize") and not param.HasField("normalization"):
        return "VALID" if param.normalize else "BATCH_SIZE"
    return schema.LossParameter.NormalizationMode.Name(param.normalization)


def read_stock_normalization(param: Any) -> str:
    """`read_normalization` for the losses of BVLC, which lack R-FCN's fixed divisor: LayerError for PRE_FIXED."""
    mode = read_normalization(param)
    if mode == "PRE_FIXED":
        raise LayerError("normalization: PRE_FIXED is not this loss's; it has FULL, VALID, BATCH_SIZE and NONE")
    return mode


def normalizer(mode: str, outer: int, inner: int, valid: torch.Tensor) -> torch.Tensor:
    """What a loss is divided by, at least 1.

    Args:
        mode: from `read_stock_normalization`.
        outer, inner: positions before and after the class axis.
        valid: scalar tensor, positions whose label is not ignored.
    """
    fixed = {"FULL": outer * inner, "BATCH_SIZE": outer, "NONE": 1}
    return (valid if mode == "VALID" else valid.new_full((), fixed[mode])).clamp(min=1)


class _SoftmaxLoss(torch.autograd.Function):
    """Caffe's gradient: probability minus one-hot at every kept position, also where the loss is clamped."""

    @staticmethod
    def forward(
        ctx: Any, scores: torch.Tensor, index: torch.Tensor, kept: torch.Tensor, axis: int, divisor: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        prob = scores.softmax(axis)
        losses = 0 - prob.gather(axis, index).clamp(min=_FLT_MIN).log().where(kept, 0)
        ctx.save_for_backward(prob, index, kept, divisor)
        ctx.axis = axis
        ctx.mark_non_differentiable(prob, losses)
        return losses.sum() / divisor, prob, losses

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        prob, index, kept, divisor = ctx.saved_tensors
        delta = prob.scatter_add(ctx.axis, index, prob.new_full((), -1).expand(index.shape))
        return (delta * (grad / divisor)).where(kept, 0), None, None, None, None


@register("SoftmaxWithLoss")
class SoftmaxWithLoss(Layer):
    """Multinomial logistic loss of softmax(scores), averaged as LossParameter says.

    Bottoms: scores with classes on softmax_param.axis; labels, one per other position. Tops: the loss; if named, the
    probabilities and, in R-FCN's Caffe, the loss at every position in the labels' shape, 0 where the label is ignored;
    no gradient flows through these. Probabilities below FLT_MIN count as FLT_MIN.
    """

    bottoms = (2, 2)
    tops = (1, 3)
    auto_tops = True
    is_loss = True
    no_gradient = (1,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        loss = self.param.loss_param
        self.axis = self.param.softmax_param.axis
        self.ignored = loss.ignore_label if loss.HasField("ignore_label") else None
        self.normalization = read_stock_normalization(loss)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        check_first_axes(bottom_shapes)
        check_labels(bottom_shapes[0], bottom_shapes[1], self.axis)
        return [(), bottom_shapes[0], bottom_shapes[1]][: len(self.param.top)]

    def forward(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        axis = check_labels(scores.shape, labels.shape, self.axis)
        index, kept = read_labels(labels, scores.shape, axis, self.ignored)
        outer = scores.shape[:axis].numel()
        inner = scores.shape[axis + 1 :].numel()
        divisor = normalizer(self.normalization, outer, inner, kept.sum().to(scores.dtype))
        loss, prob, losses = _SoftmaxLoss.apply(scores, index, kept, axis, divisor)
        count = len(self.param.top)
        return (loss, prob, losses.reshape(labels.shape))[:count] if count > 1 else loss


def check_first_axes(bottom_shapes: list[Shape]) -> None:
    """LayerError unless predictions and labels agree on the first axis, as every Caffe loss wants."""
    heads = [shape[:1] for shape in bottom_shapes[:2]]
    if heads[0] != heads[1] or not heads[0]:
        raise LayerError(f"predictions {bottom_shapes[0]} and labels {bottom_shapes[1]} must have one first dimension")
