"""Nets as ONNX models: one function per layer type, written from the net's definition with onnx's own helpers."""

from caffe_bridge.convert.onnx_export.export import export_onnx
from caffe_bridge.convert.onnx_export.registry import exported_types, exports

__all__ = ["export_onnx", "exported_types", "exports"]
