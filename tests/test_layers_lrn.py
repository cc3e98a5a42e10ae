import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError, native
from caffe_bridge.layers import functional


@pytest.mark.parametrize("name", cases("LRN"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("size", [1, 5, 9])
@pytest.mark.parametrize("region", ["ACROSS_CHANNELS", "WITHIN_CHANNEL"])
def test_is_its_definition(size, region):
    fields = f"local_size: {size} alpha: 2 beta: 0.6 k: 3 norm_region: {region}"
    layer = make_layer(f'type: "LRN" lrn_param {{ {fields} }}', (2, 4, 3, 5)).double()
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    square, half = x.numpy() ** 2, size // 2
    scale = np.empty_like(square)
    for n, c, h, w in np.ndindex(*scale.shape):
        if region == "ACROSS_CHANNELS":
            scale[n, c, h, w] = 3 + 2 / size * square[n, max(c - half, 0) : c + half + 1, h, w].sum()
        else:
            cells = square[n, c, max(h - half, 0) : h + half + 1, max(w - half, 0) : w + half + 1]
            scale[n, c, h, w] = 1 + 2 / size**2 * cells.sum()
    np.testing.assert_allclose(layer(x).numpy(), x.numpy() * scale**-0.6, rtol=1e-6)


def test_refusals():
    with pytest.raises(CaffeError, match="odd"):
        make_layer('type: "LRN" lrn_param { local_size: 4 }', (1, 1, 1, 1))
    with pytest.raises(CaffeError, match="4-axis"):
        make_layer('type: "LRN"', (1, 1)).top_shapes([(1, 1)])


@pytest.mark.skipif(not native.load().loaded, reason="the extension is not built")
@pytest.mark.parametrize("beta", [0.75, 0.6])
@pytest.mark.parametrize("size", [1, 5, 2**31 - 1])
@pytest.mark.parametrize("shape", [(2, 7, 17, 31), (1, 1, 2, 3)])
def test_native_kernel_is_the_formula(shape, size, beta):
    x = (10 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    grad = torch.randn(shape, dtype=torch.float64)
    top = functional.lrn(x, size, 0.5, beta, 2.0)
    (result,) = torch.autograd.grad(top, x, grad)
    window = min(size, 2 * shape[1] + 1)
    expected = functional.lrn_in_torch(x, window, 0.5 * window / size, beta, 2.0)
    torch.testing.assert_close(top, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(result, *torch.autograd.grad(expected, x, grad), rtol=1e-6, atol=1e-12)
    single = functional.lrn(x.float(), size, 0.5, beta, 2.0)
    torch.testing.assert_close(single, expected.float(), rtol=2e-6, atol=0)


@pytest.mark.skipif(not native.load().loaded, reason="the extension is not built")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 5, 2**31 - 1])
@pytest.mark.parametrize(
    "shape", [(2, 7, 17, 31), (1, 33, 5, 4), (2, 3, 1, 1), (3, 1, 4, 5), (0, 3, 4, 5), (2, 3, 0, 5)]
)
def test_channels_side_by_side_give_the_same_bits(shape, size, dtype):
    x = 10 * torch.randn(shape, dtype=dtype)
    beside = x.contiguous(memory_format=torch.channels_last)
    for beta in (0.75, 0.6):
        top = functional.lrn(beside, size, 0.5, beta, 2.0)
        assert top.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(top, functional.lrn(x, size, 0.5, beta, 2.0))
    part = beside[:, :, :, 1:]
    assert torch.equal(
        functional.lrn(part, size, 0.5, 0.75, 2.0), functional.lrn(part.contiguous(), size, 0.5, 0.75, 2.0)
    )


def test_has_two_derivatives():
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)

    def normalize(images):
        return functional.lrn(images, 3, 0.5, 0.75, 1.0)

    assert torch.autograd.gradcheck(normalize, x)
    assert torch.autograd.gradgradcheck(normalize, x)
