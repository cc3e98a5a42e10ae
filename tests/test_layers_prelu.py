import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("PReLU"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 2, 2), (1, 3, 2, 1, 2)])
@pytest.mark.parametrize("shared", ["true", "false"])
def test_slopes_start_at_a_quarter_and_are_learned(shape, shared):
    layer = make_layer(f'type: "PReLU" prelu_param {{ channel_shared: {shared} }}', shape).double()
    (slope,) = layer.blobs
    assert slope.shape == (() if shared == "true" else (3,)) and (slope == 0.25).all()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layer(x), x.clamp(min=0) + 0.25 * x.clamp(max=0))
    assert torch.autograd.gradcheck(
        lambda x, slope: torch.func.functional_call(layer, {"blobs.0": slope}, (x,)), (x, slope)
    )


def test_gradient_at_zero_is_the_slope():
    layer = make_layer('type: "PReLU" prelu_param { filler { value: 0.5 } }', (1, 1))
    x = torch.zeros(1, 1, requires_grad=True)
    layer(x).backward()
    assert x.grad.item() == 0.5 and layer.blobs[0].grad.item() == 0


def test_refusals():
    with pytest.raises(CaffeError, match="two axes"):
        make_layer('type: "PReLU"', (3,))
    with pytest.raises(CaffeError, match="3 channels"):
        make_layer('type: "PReLU"', (2, 3)).top_shapes([(2, 4)])
