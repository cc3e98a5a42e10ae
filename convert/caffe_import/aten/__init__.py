"""torch's operators as those of operators.py: functions with the operators' own arguments, tensors as values."""

from caffe_bridge.convert.caffe_import.aten.registry import CONVERTERS
from caffe_bridge.convert.registration import import_modules

__all__ = ["CONVERTERS"]

import_modules(__name__)
