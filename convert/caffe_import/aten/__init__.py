"""torch's operators as those of operators.py: functions with the operators' own arguments, tensors as values."""

from caffe_bridge.convert.caffe_import.aten import (
    combination,
    comparisons,
    elementwise,
    filters,
    functions,
    images,
    layers,
    normalization,
    parts,
    pooling,
    rearrangement,
    statistics,
)
from caffe_bridge.convert.caffe_import.aten.registry import CONVERTERS

__all__ = [
    "CONVERTERS",
    "combination",
    "comparisons",
    "elementwise",
    "filters",
    "functions",
    "images",
    "layers",
    "normalization",
    "parts",
    "pooling",
    "rearrangement",
    "statistics",
]
