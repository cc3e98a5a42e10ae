import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("MVN"))
def test_recorded(name):
    check_case(name)


def by_formula(x, gradient, first, with_variance, eps):
    """Top and gradient in NumPy, over every axis from `first` on."""
    axes = tuple(range(first, 4))
    centred = x - x.mean(axes, keepdims=True)
    centred_gradient = gradient - gradient.mean(axes, keepdims=True)
    if not with_variance:
        return centred, centred_gradient
    scale = np.sqrt((centred**2).mean(axes, keepdims=True)) + eps
    top = centred / scale
    return top, (centred_gradient - top * (top * gradient).mean(axes, keepdims=True)) / scale


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4), (4, 6), (5,)])
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("with_variance", [False, True])
def test_forward_and_gradient(shape, across, with_variance):
    fields = f"across_channels: {str(across).lower()} normalize_variance: {str(with_variance).lower()} eps: 0.5"
    layer = make_layer(f'type: "MVN" mvn_param {{ {fields} }}', shape)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    top = layer(x)
    four = (*shape, *[1] * (4 - len(shape)))
    assert layer.top_shapes([shape]) == [four] == [tuple(top.shape)]
    gradient = torch.randn_like(top)
    top.backward(gradient)
    wanted, wanted_gradient = by_formula(
        x.detach().numpy().reshape(four), gradient.numpy(), 1 if across else 2, with_variance, 0.5
    )
    np.testing.assert_allclose(top.detach().numpy(), wanted, atol=1e-12)
    np.testing.assert_allclose(x.grad.numpy().reshape(four), wanted_gradient, atol=1e-12)


def test_gradient_is_the_derivative_as_eps_vanishes():
    layer = make_layer('type: "MVN"', (2, 3, 2, 2))
    assert torch.autograd.gradcheck(layer, (torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True),))


def test_refuses_more_than_four_axes():
    with pytest.raises(CaffeError, match="four axes"):
        make_layer('type: "MVN"', (1, 2, 3, 4, 5)).top_shapes([(1, 2, 3, 4, 5)])
