import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("Softmax"))
def test_recorded(name):
    check_case(name)


def test_large_scores():
    layer = make_layer('type: "Softmax"', (1, 3))
    torch.testing.assert_close(layer(torch.tensor([[1e4, 1e4, -1e4]])), torch.tensor([[0.5, 0.5, 0]]))


def test_refuses_an_axis_the_bottom_lacks():
    with pytest.raises(CaffeError, match="axis"):
        make_layer('type: "Softmax"', (3,)).top_shapes([(3,)])
