import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("EuclideanLoss"))
def test_recorded(name):
    check_case(name)


def test_shapes_may_differ_behind_the_batch():
    layer = make_layer('type: "EuclideanLoss"', (2, 6), (2, 2, 3))
    a = torch.rand(2, 6, requires_grad=True)
    b = torch.rand(2, 2, 3, requires_grad=True)
    assert layer.top_shapes([(2, 6), (2, 2, 3)]) == [()]
    layer(a, b).backward()
    torch.testing.assert_close(a.grad, (a - b.flatten(1)).detach() / 2)
    torch.testing.assert_close(b.grad.flatten(1), -a.grad)


@pytest.mark.parametrize("shapes", [[(2, 3), (3, 2)], [(2, 3), (2, 4)], [(), ()]])
def test_refuses_other_shapes(shapes):
    with pytest.raises(CaffeError):
        make_layer('type: "EuclideanLoss"', *shapes).top_shapes(shapes)
