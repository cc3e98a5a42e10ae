import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError

OPERATIONS = {
    "SUM": lambda x: x.sum(-1),
    "ASUM": lambda x: np.abs(x).sum(-1),
    "SUMSQ": lambda x: (x * x).sum(-1),
    "MEAN": lambda x: x.mean(-1),
}


@pytest.mark.parametrize("name", cases("Reduction"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
@pytest.mark.parametrize("coeff", [1, -1.5])
def test_every_operation_and_axis(operation, axis, coeff):
    shape = (2, 3, 4)
    layer = make_layer(
        f'type: "Reduction" reduction_param {{ operation: {operation} axis: {axis} coeff: {coeff} }}', shape
    )
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    top = layer(x)
    kept = shape[: axis % 3]
    assert layer.top_shapes([shape]) == [kept] == [tuple(top.shape)]
    wanted = coeff * OPERATIONS[operation](x.detach().numpy().reshape(*kept, -1))
    np.testing.assert_allclose(top.detach().numpy(), wanted, atol=1e-12)
    assert torch.autograd.gradcheck(layer, (x,))


def test_gradient_of_absolute_values_at_zero_is_zero():
    layer = make_layer('type: "Reduction" reduction_param { operation: ASUM }', (3,))
    x = torch.tensor([-2.0, 0, 2], requires_grad=True)
    layer(x).backward()
    assert x.grad.tolist() == [-1, 0, 1]


@pytest.mark.parametrize(("axis", "shape"), [(2, (2, 3)), (-3, (2, 3)), (0, ())])
def test_refuses_axes_there_are_not(axis, shape):
    with pytest.raises(CaffeError):
        make_layer(f'type: "Reduction" reduction_param {{ axis: {axis} }}', shape).top_shapes([shape])
