"""ONNX operators as those of operators.py: one function for each, or for each family."""

from caffe_bridge.convert.caffe_import.onnx_operators.registry import CONVERTERS
from caffe_bridge.convert.registration import import_modules

__all__ = ["CONVERTERS"]

import_modules(__name__)
