import numpy as np
import torch
from layer_cases import make_layer


def top_by_formula(x):
    return x * np.minimum(np.maximum(x + 3, 0), 6) / 6


def test_values_and_gradients():
    layer = make_layer('type: "HardSwish"', (2, 3))
    x = torch.linspace(-30, 30, 241, dtype=torch.float64)
    np.testing.assert_allclose(layer(x).numpy(), top_by_formula(x.numpy()), rtol=1e-12, atol=1e-12)
    inner = torch.linspace(-5, 5, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, inner)
    assert layer.top_shapes([(2, 3)]) == [(2, 3)]
