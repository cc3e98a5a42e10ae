"""The small layers of SENet, ShuffleNet, MobileNet and YOLO, against recorded cases and plain NumPy."""

import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError
from caffe_bridge.config import cfg

FAMILIES = ("Axpy", "ShuffleChannel", "DepthwiseConvolution", "ConvolutionDepthwise", "ReLU6", "Reorg")


@pytest.mark.parametrize("name", cases(*FAMILIES, folder="forks"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("trailing", [(), (1, 1)])
def test_axpy(trailing):
    layer = make_layer('type: "Axpy"', (2, 3, *trailing), (2, 3, 4, 5), (2, 3, 4, 5))
    a, x, b = torch.rand(2, 3, *trailing), torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(layer(a, x, b), a.view(2, 3, 1, 1) * x + b)
    tensors = [t.double().requires_grad_() for t in (a, x[:, :, :2, :2], b[:, :, :2, :2])]
    assert torch.autograd.gradcheck(layer, tensors)


@pytest.mark.parametrize(
    "shapes", [((2, 3), (2, 4, 5), (2, 4, 5)), ((2, 3, 2, 1), (2, 3, 4), (2, 3, 4)), ((2, 3), (2, 3, 4), (2, 3, 5))]
)
def test_axpy_refuses(shapes):
    with pytest.raises(CaffeError, match="takes a"):
        make_layer('type: "Axpy"', *shapes).top_shapes(list(shapes))


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 3), (2, 6, 3, 2)])
@pytest.mark.parametrize("group", [1, 2, 3, 6])
def test_shuffle_channel(shape, group):
    layer = make_layer(f'type: "ShuffleChannel" shuffle_channel_param {{ group: {group} }}', shape)
    x = torch.rand(shape, requires_grad=True)
    top = layer(x)
    assert layer.top_shapes([shape]) == [tuple(top.shape)] and top.ndim == 4
    for i in range(group):
        for j in range(6 // group):
            assert torch.equal(top[:, j * group + i].flatten(), x[:, i * (6 // group) + j].flatten())
    top.backward(top.detach())
    assert torch.equal(x.grad, x)


def test_shuffle_channel_refuses():
    for group in (0, 4):
        with pytest.raises(CaffeError, match="group"):
            layer = make_layer(f'type: "ShuffleChannel" shuffle_channel_param {{ group: {group} }}', (2, 6))
            layer.top_shapes([(2, 6)])


def test_convolution_depthwise_has_a_filter_per_channel():
    fields = "num_output: 7 group: 1 kernel_h: 3 kernel_w: 1 pad: 1 stride: 2 dilation: 2"
    layer = make_layer(f'type: "ConvolutionDepthwise" convolution_param {{ {fields} }}', (1, 5, 9, 9))
    assert [tuple(blob.shape) for blob in layer.blobs] == [(5, 1, 3, 1), (5,)]
    assert layer.top_shapes([(1, 5, 9, 9)]) == [(1, 5, 4, 6)]


@pytest.mark.parametrize(
    "fields", ["kernel_size: 3 pad: 1", "kernel_size: 3 stride: 1", "kernel_size: 3 stride: 1 pad_h: 1"]
)
def test_convolution_depthwise_has_no_defaults(fields):
    with pytest.raises(CaffeError, match="needs"):
        make_layer(f'type: "ConvolutionDepthwise" convolution_param {{ {fields} }}', (1, 5, 9, 9))


def test_depthwise_convolution_is_a_convolution():
    text = "convolution_param { num_output: 4 group: 2 kernel_size: 3 }"
    a, b = (make_layer(f'type: "{kind}" {text}', (1, 4, 5, 5)) for kind in ("DepthwiseConvolution", "Convolution"))
    a.load_state_dict(b.state_dict())
    x = torch.rand(1, 4, 5, 5)
    assert torch.equal(a(x), b(x))


@pytest.mark.parametrize("slope", [0, 0.25])
def test_relu6(slope):
    layer = make_layer(f'type: "ReLU6" relu6_param {{ negative_slope: {slope} }}', (6,))
    x = torch.tensor([-2.0, 0, 1, 6, 7, 5.5], requires_grad=True)
    top = layer(x)
    assert top.tolist() == [-2 * slope, 0, 1, 6, 6, 5.5]
    top.sum().backward()
    assert x.grad.tolist() == [slope, slope, 1, 0, 0, 1]


NEURONS = {
    "HardSwish": lambda x: x * np.minimum(np.maximum(x + 3, 0), 6) / 6,
    "Mish": lambda x: x * np.tanh(np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)),
}


@pytest.mark.parametrize("kind", NEURONS)
def test_activations_by_definition(kind):
    layer = make_layer(f'type: "{kind}"', (2, 3))
    x = torch.linspace(-30, 30, 241, dtype=torch.float64)
    np.testing.assert_allclose(layer(x).numpy(), NEURONS[kind](x.numpy()), rtol=1e-12, atol=1e-12)
    inner = torch.linspace(-5, 5, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, inner)
    assert layer.top_shapes([(2, 3)]) == [(2, 3)]


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
def test_reorg(shape, stride, reverse):
    fields = f"stride: {stride} reverse: {str(reverse).lower()}"
    layer = make_layer(f'type: "Reorg" reorg_param {{ {fields} }}', shape)
    x = np.random.default_rng(0).normal(size=shape)
    wanted = reorg_by_loops(x, stride, reverse)
    np.testing.assert_array_equal(layer(torch.from_numpy(x)).numpy(), wanted)
    assert layer.top_shapes([shape]) == [wanted.shape]


def test_reorg_learns_only_with_exact_gradients(monkeypatch):
    layer = make_layer('type: "Reorg" reorg_param { stride: 2 }', (1, 4, 2, 2))
    x = torch.rand(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert not layer(x).requires_grad
    monkeypatch.setitem(cfg.TRAIN, "EXACT_GRADIENTS", True)
    assert torch.autograd.gradcheck(layer, x)


@pytest.mark.parametrize(
    ("fields", "shape"),
    [("", (1, 4, 2, 2)), ("stride: 2", (1, 3, 2, 2)), ("stride: 2", (1, 4, 3, 2)), ("stride: 2", (4, 2))],
)
def test_reorg_refuses(fields, shape):
    with pytest.raises(CaffeError):
        make_layer(f'type: "Reorg" reorg_param {{ {fields} }}', shape)
