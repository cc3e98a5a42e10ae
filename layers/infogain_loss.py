"""InfogainLoss."""

from __future__ import annotations

from typing import Any

import torch

from caffe_bridge.errors import LayerError, WeightsError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.labels import check_labels, read_labels
from caffe_bridge.layers.multinomial_logistic_loss import LOG_THRESHOLD
from caffe_bridge.layers.softmax_loss import check_first_axes, normalizer, read_stock_normalization
from caffe_bridge.registry import register


class _InfogainLoss(torch.autograd.Function):
    """Caffe's gradient: probability times the row's sum minus the row, also where the loss is clamped."""

    @staticmethod
    def forward(
        ctx: Any, scores: torch.Tensor, rows: torch.Tensor, axis: int, divisor: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        prob = scores.softmax(axis)
        ctx.save_for_backward(prob, rows, divisor)
        ctx.axis = axis
        ctx.mark_non_differentiable(prob)
        return -(rows * prob.clamp(min=LOG_THRESHOLD).log()).sum() / divisor, prob

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _prob: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        prob, rows, divisor = ctx.saved_tensors
        return (prob * rows.sum(ctx.axis, keepdim=True) - rows) * (grad / divisor), None, None, None


@register("InfogainLoss")
class InfogainLoss(Layer):
    """-sum over classes k of H[label, k] log(softmax(scores)[k]), averaged as LossParameter says.

    Bottoms: scores with classes on infogain_loss_param.axis; labels, one per other position; optionally the matrix H,
    classes x classes values. Without a third bottom H is read at set-up from the binaryproto `source`. Tops: the loss;
    if named, the probabilities, through which no gradient flows. Probabilities below 1e-20 count as 1e-20.
    """

    bottoms = (2, 3)
    tops = (1, 2)
    auto_tops = True
    is_loss = True
    no_gradient = (1, 2)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        loss, param = self.param.loss_param, self.param.infogain_loss_param
        if loss.HasField("normalize"):
            raise LayerError("takes loss_param.normalization, not the older normalize")
        self.axis = param.axis
        self.ignored = loss.ignore_label if loss.HasField("ignore_label") else None
        self.normalization = read_stock_normalization(loss)
        self.with_probabilities = len(self.param.top) > 1
        self.register_buffer("matrix", None, persistent=False)
        if len(bottom_shapes) < 3:
            if not param.HasField("source"):
                raise LayerError("needs the infogain matrix: infogain_loss_param.source, or a third bottom")
            self.matrix = _read_matrix(param.source)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        check_first_axes(bottom_shapes)
        scores = bottom_shapes[0]
        axis = check_labels(scores, bottom_shapes[1], self.axis)
        matrix = bottom_shapes[2] if self.matrix is None else tuple(self.matrix.shape)
        if torch.Size(matrix).numel() != scores[axis] ** 2:
            raise LayerError(f"the infogain matrix must be {scores[axis]} x {scores[axis]}, not of shape {matrix}")
        return [(), scores][: len(self.param.top)]

    def forward(
        self, scores: torch.Tensor, labels: torch.Tensor, matrix: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        axis = check_labels(scores.shape, labels.shape, self.axis)
        classes = scores.shape[axis]
        index, kept = read_labels(labels, scores.shape, axis, self.ignored)
        matrix = self.matrix.to(scores) if matrix is None else matrix.detach()
        rows = matrix.reshape(classes, classes)[index.squeeze(axis)].movedim(-1, axis)
        outer, inner = scores.shape[:axis].numel(), scores.shape[axis + 1 :].numel()
        divisor = normalizer(self.normalization, outer, inner, kept.sum().to(scores.dtype))
        loss, prob = _InfogainLoss.apply(scores, rows.where(kept, 0), axis, divisor)
        return (loss, prob) if self.with_probabilities else loss


def _read_matrix(path: str) -> torch.Tensor:
    from caffe_bridge.weights import read_blobproto

    try:
        return torch.from_numpy(read_blobproto(path))
    except WeightsError as error:
        raise LayerError(f"cannot read the infogain matrix: {error}") from error
