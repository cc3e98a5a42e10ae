import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("Axpy", folder="forks"))
def test_recorded(name):
    check_case(name)


def top_by_loops(a, x, b):
    return torch.stack([torch.stack([a[n, c] * x[n, c] + b[n, c] for c in range(3)]) for n in range(2)])


@pytest.mark.parametrize("trailing", [(), (1, 1)])
def test_values_and_gradients(trailing):
    layer = make_layer('type: "Axpy"', (2, 3, *trailing), (2, 3, 4, 5), (2, 3, 4, 5))
    a, x, b = torch.rand(2, 3, *trailing), torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(layer(a, x, b), top_by_loops(a.view(2, 3), x, b))
    tensors = [t.double().requires_grad_() for t in (a, x[:, :, :2, :2], b[:, :, :2, :2])]
    assert torch.autograd.gradcheck(layer, tensors)


@pytest.mark.parametrize(
    "shapes", [((2, 3), (2, 4, 5), (2, 4, 5)), ((2, 3, 2, 1), (2, 3, 4), (2, 3, 4)), ((2, 3), (2, 3, 4), (2, 3, 5))]
)
def test_refuses(shapes):
    with pytest.raises(CaffeError, match="takes a"):
        make_layer('type: "Axpy"', *shapes).top_shapes(list(shapes))
