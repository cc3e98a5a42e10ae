"""Nets as PyTorch: stand-alone source with safetensors, exported programs, and state dicts of torchvision's models."""

from caffe_bridge.convert.torch_export.export import TorchModule, torch_module
from caffe_bridge.convert.torch_export.registry import writes, written_types

__all__ = ["TorchModule", "torch_module", "writes", "written_types"]
