"""Accuracy."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.labels import check_labels, read_labels
from caffe_bridge.registry import register


@register("Accuracy")
class Accuracy(Layer):
    """The share of positions whose class is among the `top_k` scores; with a second top, the share per class.

    A class that scores the same as the true one counts as better, so ties count against. Shares of nothing are 0.
    """

    bottoms = (2, 2)
    tops = (1, 2)
    no_gradient = Layer.ALL_BOTTOMS

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.accuracy_param
        self.axis, self.top_k = param.axis, param.top_k
        self.ignored = param.ignore_label if param.HasField("ignore_label") else None
        self.per_class = len(self.param.top) > 1

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        axis = check_labels(bottom_shapes[0], bottom_shapes[1], self.axis)
        classes = bottom_shapes[0][axis]
        if self.top_k > classes:
            raise LayerError(f"top_k: {self.top_k} is more than the {classes} classes")
        return [(), (classes,)][: len(self.param.top)]

    @torch.no_grad()
    def forward(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        axis = check_labels(scores.shape, labels.shape, self.axis)
        index, kept = read_labels(labels, scores.shape, axis, self.ignored)
        better = (scores >= scores.gather(axis, index)).sum(axis, keepdim=True) - 1
        hit = (kept & (better < self.top_k)).to(scores.dtype)
        counted = kept.to(scores.dtype)
        share = hit.sum() / counted.sum().clamp(min=1)
        if not self.per_class:
            return share
        hits, counts = (
            scores.new_zeros(scores.shape[axis]).index_add(0, index.flatten(), values.flatten())
            for values in (hit, counted)
        )
        return share, hits / counts.clamp(min=1)
