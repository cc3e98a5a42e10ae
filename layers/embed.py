"""Embed."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.indices import read_indices
from caffe_bridge.registry import register


@register("Embed")
class Embed(Layer):
    """Rows of a learned table, chosen by indices of any shape: top (*shape, num_output).

    Blobs: weight (input_dim, num_output), and with `bias_term` bias (num_output,). A row used several times gets the
    sum of the gradients.
    """

    no_gradient = (0,)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.embed_param
        for name in ("num_output", "input_dim"):
            if not getattr(param, name):
                raise LayerError(f"{name} must be given and above 0")
        self.outputs = param.num_output
        self.add_blob((param.input_dim, self.outputs), param.weight_filler)
        if param.bias_term:
            self.add_blob((self.outputs,), param.bias_filler)

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [(*bottom_shapes[0], self.outputs)]

    def forward(self, bottom: torch.Tensor) -> torch.Tensor:
        top = F.embedding(read_indices(bottom, self.blobs[0].shape[0]), self.blobs[0])
        return top + self.blobs[1] if len(self.blobs) > 1 else top
