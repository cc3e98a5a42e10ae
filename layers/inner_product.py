"""InnerProduct."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape, canonical_axis
from caffe_bridge.registry import register


@register("InnerProduct")
class InnerProduct(Layer):
    """A fully connected layer over everything from `axis` on: (a, b, c, d) with axis 1 becomes (a, num_output).

    Blobs: weight (num_output, inputs), or (inputs, num_output) with `transpose`; bias (num_output,).
    """

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.inner_product_param
        if not param.num_output:
            raise LayerError("num_output must be given and above 0")
        self.transpose = param.transpose
        self.axis = param.axis
        self.outputs = param.num_output
        axis = canonical_axis(self.axis, len(bottom_shapes[0]))
        self.inputs = math.prod(bottom_shapes[0][axis:])
        shape = (self.outputs, self.inputs)
        self.add_blob(shape[::-1] if self.transpose else shape, param.weight_filler)
        if param.bias_term:
            self.add_blob((self.outputs,), param.bias_filler)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        axis = canonical_axis(self.axis, len(bottom_shapes[0]))
        inputs = math.prod(bottom_shapes[0][axis:])
        if inputs != self.inputs:
            raise LayerError(f"the weights take {self.inputs} inputs, the bottom has {inputs} from axis {axis} on")
        return [(*bottom_shapes[0][:axis], self.outputs)]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        axis = canonical_axis(self.axis, bottom.ndim)
        weight = self.blobs[0].t() if self.transpose else self.blobs[0]
        bias = self.blobs[1] if len(self.blobs) > 1 else None
        return F.linear(bottom.reshape(*bottom.shape[:axis], self.inputs), weight, bias)
