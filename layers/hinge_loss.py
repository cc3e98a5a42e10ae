"""HingeLoss."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from caffe_bridge import schema
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.labels import check_labels, read_labels
from caffe_bridge.layers.softmax_loss import check_first_axes
from caffe_bridge.registry import register


@register("HingeLoss")
class HingeLoss(Layer):
    """One against all: max(0, 1 - score of the label) and max(0, 1 + any other score), summed or squared and summed.

    Divided by the batch size. Bottoms: scores (num, ...), where everything but axis 0 counts as classes; one label per
    image. `norm` is L1 or L2. A term of exactly 0 has no gradient.
    """

    bottoms = (2, 2)
    auto_tops = True
    is_loss = True
    no_gradient = (1,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.squared = self.param.hinge_loss_param.norm == schema.HingeLossParameter.L2

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        check_first_axes(bottom_shapes)
        scores, labels = bottom_shapes
        check_labels((scores[0], math.prod(scores[1:])), labels, 1)
        return [()]

    def forward(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        num = scores.shape[0]
        flat = scores.reshape(num, math.prod(scores.shape[1:]))
        index, known = read_labels(labels, tuple(flat.shape), 1, None)
        sign = torch.ones_like(flat).scatter(1, index, 1 - 2 * known.to(flat.dtype))
        margins = F.relu(1 + sign * flat)
        return (margins.square() if self.squared else margins).sum() / num
