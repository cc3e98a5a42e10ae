import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("ShuffleChannel", folder="forks"))
def test_recorded(name):
    check_case(name)


def shuffle_by_loops(x, group):
    out = torch.zeros_like(x)
    for i in range(group):
        for j in range(6 // group):
            out[:, j * group + i] = x[:, i * (6 // group) + j]
    return out.reshape(*x.shape, *[1] * (4 - x.ndim))


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 3), (2, 6, 3, 2)])
@pytest.mark.parametrize("group", [1, 2, 3, 6])
def test_channels_are_dealt_out(shape, group):
    layer = make_layer(f'type: "ShuffleChannel" shuffle_channel_param {{ group: {group} }}', shape)
    x = torch.rand(shape, requires_grad=True)
    top = layer(x)
    assert layer.top_shapes([shape]) == [tuple(top.shape)] and top.ndim == 4
    assert torch.equal(top, shuffle_by_loops(x.detach(), group))
    top.backward(top.detach())
    assert torch.equal(x.grad, x)


def test_refuses():
    for group in (0, 4):
        with pytest.raises(CaffeError, match="group"):
            layer = make_layer(f'type: "ShuffleChannel" shuffle_channel_param {{ group: {group} }}', (2, 6))
            layer.top_shapes([(2, 6)])
