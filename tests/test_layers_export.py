"""Layers whose shapes do not depend on data go through torch.export, in one graph with the same numbers."""

import pytest
import torch
from layer_cases import make_layer

INDEX = torch.tensor([1.0, 0, 1])
LAYERS = {
    "PReLU": ("", [torch.randn(2, 3, 4)]),
    "ArgMax": ("argmax_param { axis: 1 top_k: 2 }", [torch.randn(2, 3, 4)]),
    "BatchReindex": ("", [torch.randn(2, 3), INDEX]),
    "Embed": ("embed_param { num_output: 3 input_dim: 2 }", [INDEX]),
    "ContrastiveLoss": ("", [torch.randn(3, 4), torch.randn(3, 4), INDEX]),
    "HingeLoss": ("", [torch.randn(3, 4), INDEX]),
    "MultinomialLogisticLoss": ("", [torch.rand(3, 4), INDEX]),
    "InfogainLoss": ("", [torch.randn(3, 4), INDEX, torch.rand(4, 4)]),
    "Crop": ("", [torch.randn(1, 1, 4, 4), torch.randn(1, 1, 2, 3)]),
    "Im2col": ("convolution_param { kernel_size: 3 stride: 2 pad: 1 }", [torch.randn(1, 2, 5, 4)]),
    "MVN": ("", [torch.randn(2, 3, 4, 4)]),
    "Parameter": ("parameter_param { shape { dim: 2 } }", []),
    "Reduction": ("reduction_param { operation: ASUM axis: 1 }", [torch.randn(2, 3)]),
    "SPP": ("spp_param { pyramid_height: 2 }", [torch.randn(1, 2, 6, 5)]),
    "Tile": ("tile_param { tiles: 3 }", [torch.randn(2, 3)]),
    "LSTMUnit": ("", [torch.randn(1, 2, 3), torch.randn(1, 2, 12), torch.ones(1, 2)]),
}


@pytest.mark.parametrize("type_", LAYERS)
def test_exports(type_):
    fields, bottoms = LAYERS[type_]
    layer = make_layer(f'type: "{type_}" {fields}', *(tuple(bottom.shape) for bottom in bottoms))
    exported = torch.export.export(layer, tuple(bottoms)).module()
    torch.testing.assert_close(exported(*bottoms), layer(*bottoms))
