"""torch's operators as those of operators.py: functions with the operators' own arguments, tensors as values."""

from caffe_bridge.convert.caffe_import.aten import (
    combination,
    elementwise,
    filters,
    images,
    normalization,
    parts,
    pooling,
    rearrangement,
)
from caffe_bridge.convert.caffe_import.aten.registry import CONVERTERS

__all__ = [
    "CONVERTERS",
    "combination",
    "elementwise",
    "filters",
    "images",
    "normalization",
    "parts",
    "pooling",
    "rearrangement",
]
