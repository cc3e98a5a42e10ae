import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError
from caffe_bridge.config import cfg


@pytest.mark.parametrize("name", cases("Reorg", folder="forks"))
def test_recorded(name):
    check_case(name)


def reorg_by_loops(x, s, reverse):
    n, c, h, w = x.shape
    if reverse:
        out = np.zeros((n, c // s**2, h * s, w * s), x.dtype)
        for b, k, q, i, j in np.ndindex(n, s * s, c // s**2, h, w):
            out[b, q, i * s + k // s, j * s + k % s] = x[b, k * (c // s**2) + q, i, j]
        return out
    q = c // s**2
    view = x.reshape(n, q, h * s, w * s)
    flat = np.zeros((n, c, h, w), x.dtype)
    for b, k, i, j in np.ndindex(n, c, h, w):
        flat[b, k, i, j] = view[b, k % q, i * s + k // q // s, j * s + k // q % s]
    return flat.reshape(n, c * s**2, h // s, w // s)


@pytest.mark.parametrize(
    ("shape", "stride"), [((2, 4, 2, 6), 2), ((1, 18, 3, 3), 3), ((1, 8, 4, 2), 2), ((1, 3, 2, 2), 1)]
)
@pytest.mark.parametrize("reverse", [False, True])
def test_values(shape, stride, reverse):
    fields = f"stride: {stride} reverse: {str(reverse).lower()}"
    layer = make_layer(f'type: "Reorg" reorg_param {{ {fields} }}', shape)
    x = np.random.default_rng(0).normal(size=shape)
    wanted = reorg_by_loops(x, stride, reverse)
    np.testing.assert_array_equal(layer(torch.from_numpy(x)).numpy(), wanted)
    assert layer.top_shapes([shape]) == [wanted.shape]


def test_learns_only_with_exact_gradients(monkeypatch):
    layer = make_layer('type: "Reorg" reorg_param { stride: 2 }', (1, 4, 2, 2))
    x = torch.rand(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert not layer(x).requires_grad
    monkeypatch.setitem(cfg.TRAIN, "EXACT_GRADIENTS", True)
    assert torch.autograd.gradcheck(layer, x)


@pytest.mark.parametrize(
    ("fields", "shape"),
    [("", (1, 4, 2, 2)), ("stride: 2", (1, 3, 2, 2)), ("stride: 2", (1, 4, 3, 2)), ("stride: 2", (4, 2))],
)
def test_refuses(fields, shape):
    with pytest.raises(CaffeError):
        make_layer(f'type: "Reorg" reorg_param {{ {fields} }}', shape)
