"""HardSwish, of MobileNetV3 (Howard et al., arXiv:1905.02244)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from caffe_bridge.layers.base import Layer
from caffe_bridge.registry import register


@register("HardSwish", source="MobileNetV3")
class HardSwish(Layer):
    """x * min(max(x + 3, 0), 6) / 6."""

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        return F.hardswish(bottom)
