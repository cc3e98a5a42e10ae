"""Changes to a model, its definition and weights together; each gives a new model and leaves the old one alone."""

from caffe_bridge.convert.surgery.batch_norm import fold_batch_norm
from caffe_bridge.convert.surgery.classes import change_classes
from caffe_bridge.convert.surgery.cut import cut
from caffe_bridge.convert.surgery.fully_connected import cast_to_convolution
from caffe_bridge.convert.surgery.half import half_weights
from caffe_bridge.convert.surgery.input_shapes import set_input_shapes
from caffe_bridge.convert.surgery.preprocessing import include_preprocessing, swap_channels
from caffe_bridge.convert.surgery.prune import prune
from caffe_bridge.convert.surgery.rename import rename

__all__ = [
    "cast_to_convolution",
    "change_classes",
    "cut",
    "fold_batch_norm",
    "half_weights",
    "include_preprocessing",
    "prune",
    "rename",
    "set_input_shapes",
    "swap_channels",
]
