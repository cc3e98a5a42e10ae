import pytest
import torch
from layer_cases import cases, check_case, make_layer


@pytest.mark.parametrize("name", cases("ReLU6", folder="forks"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("slope", [0, 0.25])
def test_values_and_gradients(slope):
    layer = make_layer(f'type: "ReLU6" relu6_param {{ negative_slope: {slope} }}', (6,))
    x = torch.tensor([-2.0, 0, 1, 6, 7, 5.5], requires_grad=True)
    top = layer(x)
    assert top.tolist() == [-2 * slope, 0, 1, 6, 6, 5.5]
    top.sum().backward()
    assert x.grad.tolist() == [slope, slope, 1, 0, 0, 1]
