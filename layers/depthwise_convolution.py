"""DepthwiseConvolution and ConvolutionDepthwise, two ways MobileNets name a convolution of each channel by itself."""

from __future__ import annotations

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Shape
from caffe_bridge.layers.convolution import Convolution
from caffe_bridge.registry import register


@register("DepthwiseConvolution", source="MobileNet-YOLO")
class DepthwiseConvolution(Convolution):
    """Convolution by another name: `group` counts as given, so a depthwise one says group: channels."""


@register("ConvolutionDepthwise", source="MobileNet-SSD-Focal-loss")
class ConvolutionDepthwise(Convolution):
    """One filter per channel, whatever num_output and group say: blobs (channels, 1, *kernel) and (channels,).

    Takes one bottom (N, C, H, W). `pad` and `stride` have no default and must be given.
    """

    bottoms = (1, 1)
    tops = (1, 1)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        if len(bottom_shapes[0]) != 4:
            raise LayerError(f"takes a bottom (N, C, H, W), not {tuple(bottom_shapes[0])}")
        param = self.param.convolution_param
        for name in ("pad", "stride"):
            sides = [f"{name}_h", f"{name}_w"]
            if not getattr(param, name) and not all(param.HasField(side) for side in sides):
                raise LayerError(f"needs {name}, or {sides[0]} and {sides[1]}: this layer has no default for it")
        param.num_output = param.group = bottom_shapes[0][1]
        param.ClearField("axis")
        super().setup(bottom_shapes)
