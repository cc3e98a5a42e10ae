"""Silence."""

from __future__ import annotations

import torch

from caffe_bridge.layers.base import Layer
from caffe_bridge.registry import register


@register("Silence")
class Silence(Layer):
    """Takes any number of bottoms and makes nothing, so that they are not outputs of the net."""

    bottoms = (1, None)
    tops = (0, 0)

    def forward(self, *bottoms: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return ()
