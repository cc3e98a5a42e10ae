"""Mish (Misra, arXiv:1908.08681), of YOLOv4."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from caffe_bridge.layers.base import Layer
from caffe_bridge.registry import register


@register("Mish", source="YOLOv4")
class Mish(Layer):
    """x * tanh(log(1 + exp(x)))."""

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        return F.mish(bottom)
