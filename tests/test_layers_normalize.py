import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError
from caffe_bridge.config import cfg


@pytest.mark.parametrize("name", cases("Normalize", folder="forks"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("across", ["true", "false"])
@pytest.mark.parametrize("shared", ["true", "false"])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 2)])
def test_exact_gradient(monkeypatch, across, shared, shape):
    monkeypatch.setitem(cfg.TRAIN, "EXACT_GRADIENTS", True)
    fields = f"across_spatial: {across} channel_shared: {shared} eps: 0.1"
    layer = make_layer(f'type: "Normalize" norm_param {{ {fields} }}', shape).double()
    assert layer.blobs[0].shape == (() if shared == "true" else (3,))
    assert torch.autograd.gradcheck(layer, torch.rand(shape, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("across", ["true", "false"])
def test_published_gradient_of_a_shared_scale_is_the_derivative(across):
    layer = make_layer(f'type: "Normalize" norm_param {{ across_spatial: {across} }}', (2, 3, 2, 2)).double()
    with torch.no_grad():
        layer.blobs[0].fill_(1.5)
    assert torch.autograd.gradcheck(layer, torch.rand(2, 3, 2, 2, dtype=torch.float64, requires_grad=True))


def test_zero_scale_gives_nan_as_published():
    layer = make_layer('type: "Normalize" norm_param { scale_filler { value: 0 } }', (1, 2))
    layer(torch.rand(1, 2)).sum().backward()
    assert layer.blobs[0].grad.isnan()


def test_refuses():
    with pytest.raises(CaffeError, match="axes"):
        make_layer('type: "Normalize"', (3,))
    layer = make_layer('type: "Normalize" norm_param { channel_shared: false }', (1, 3))
    with pytest.raises(CaffeError, match="3 channels"):
        layer.top_shapes([(1, 4)])
