"""State dicts for torchvision's networks; torchvision itself is not needed."""

from caffe_bridge.convert.torch_export.torchvision.architectures import ARCHITECTURES
from caffe_bridge.convert.torch_export.torchvision.matching import TorchvisionWeights, torchvision_weights

__all__ = ["ARCHITECTURES", "TorchvisionWeights", "torchvision_weights"]
