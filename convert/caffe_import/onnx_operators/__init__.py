"""ONNX operators as those of operators.py: one function for each, or for each family."""

from caffe_bridge.convert.caffe_import.onnx_operators import (
    combination,
    comparisons,
    elementwise,
    filters,
    images,
    normalization,
    pooling,
    rearrangement,
)
from caffe_bridge.convert.caffe_import.onnx_operators.registry import CONVERTERS

__all__ = [
    "CONVERTERS",
    "combination",
    "comparisons",
    "elementwise",
    "filters",
    "images",
    "normalization",
    "pooling",
    "rearrangement",
]
