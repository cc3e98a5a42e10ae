"""EuclideanLoss."""

from __future__ import annotations

import math

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.softmax_loss import check_first_axes
from caffe_bridge.registry import register


@register("EuclideanLoss")
class EuclideanLoss(Layer):
    """Half the squared distance of two bottoms, summed and divided by the batch size; both get a gradient."""

    bottoms = (2, 2)
    auto_tops = True
    is_loss = True

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        check_first_axes(bottom_shapes)
        sizes = [math.prod(shape[1:]) for shape in bottom_shapes]
        if sizes[0] != sizes[1]:
            raise LayerError(f"the two bottoms have {sizes[0]} and {sizes[1]} values per image; they must agree")
        return [()]

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        difference = prediction - target.reshape(prediction.shape)
        return difference.square().sum() / prediction.shape[0] / 2
