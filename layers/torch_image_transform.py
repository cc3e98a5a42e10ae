"""py-faster-rcnn's layer for models that were trained in Torch on images scaled to its mean and deviation."""

from __future__ import annotations

import torch

from caffe_bridge.config import cfg
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register_python

# Of ImageNet's images in red, green, blue, values from 0 to 1.
MEANS = (0.48462227599918, 0.45624044862054, 0.40588363755159)
DEVIATIONS = (0.22889466674951, 0.22446679341259, 0.22495548344775)


@register_python("transform.torch_image_transform_layer", "TorchImageTransformLayer")
class TorchImageTransformLayer(Layer):
    """Images (n, 3, h, w) in blue, green, red less cfg.PIXEL_MEANS as Torch's models expect them.

    The means are added back, channels reversed, values divided by 255 and standardised. The original also leaves the
    sum in its bottom, so that a second pass over the same image is wrong; here the bottom stays as it is.
    Source: py-faster-rcnn's transform/torch_image_transform_layer.py.
    """

    constants = Layer.ALL_BOTTOMS

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if len(bottom_shapes[0]) != 4 or bottom_shapes[0][1] != 3:
            raise LayerError(f"takes images (n, 3, h, w), not {bottom_shapes[0]}")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        old, mean, deviation = (
            images.new_tensor(values, dtype=torch.float64).reshape(1, 3, 1, 1)
            for values in (cfg.PIXEL_MEANS, MEANS, DEVIATIONS)
        )
        return (((images + old).flip(1) / 255 - mean) / deviation).to(images.dtype)
