import pytest
import torch
from layer_cases import cases, check_case, make_layer


@pytest.mark.parametrize("name", cases("ReLU", "Sigmoid", "TanH"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("slope", [0, 0.25, -0.5])
def test_relu_gradient_at_zero_is_the_slope(slope):
    layer = make_layer(f'type: "ReLU" relu_param {{ negative_slope: {slope} }}', (3,))
    x = torch.tensor([-2.0, 0, 2], requires_grad=True)
    top = layer(x)
    top.sum().backward()
    assert top.tolist() == [-2 * slope, 0, 2]
    assert x.grad.tolist() == [slope, slope, 1]


@pytest.mark.parametrize(("slope", "gradient"), [(-0.5, [1, -0.5, 1]), (0.5, [0.5, 0.5, 1])])
def test_relu_in_place_goes_by_the_sign_of_the_top(slope, gradient):
    layer = make_layer(f'type: "ReLU" bottom: "x" top: "x" relu_param {{ negative_slope: {slope} }}', (3,))
    x = torch.tensor([-2.0, 0, 3], requires_grad=True)
    top = layer(x)
    top.sum().backward()
    assert top.tolist() == [-2 * slope, 0, 3] and x.grad.tolist() == gradient
