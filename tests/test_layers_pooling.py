"""Pooling against recorded cases and against Caffe's loops written out in NumPy."""

import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError, native, randomness
from caffe_bridge.layers import functional
from caffe_bridge.layers.pooling import Windows, max_pool

FLT_MAX = np.finfo(np.float32).max


def pool_by_loops(x, kernel, stride, pad, out, maximum):
    """Caffe's CPU loops: tops and, for MAX, the positions of the maxima."""
    height, width = x.shape[2:]
    top = np.full((*x.shape[:2], *out), -FLT_MAX if maximum else 0, np.float32)
    mask = np.full(top.shape, -1)
    for n, c, ph, pw in np.ndindex(*top.shape):
        top_row, left = ph * stride[0] - pad[0], pw * stride[1] - pad[1]
        bottom_row, right = min(top_row + kernel[0], height + pad[0]), min(left + kernel[1], width + pad[1])
        cells = (bottom_row - top_row) * (right - left)
        for y in range(max(top_row, 0), min(bottom_row, height)):
            for x_ in range(max(left, 0), min(right, width)):
                value = x[n, c, y, x_]
                if not maximum:
                    top[n, c, ph, pw] += value
                elif value > top[n, c, ph, pw]:
                    top[n, c, ph, pw], mask[n, c, ph, pw] = value, y * width + x_
        if not maximum:
            with np.errstate(invalid="ignore", divide="ignore"):
                top[n, c, ph, pw] /= np.float32(cells)
    return top, mask


GEOMETRIES = [
    # size, kernel, stride, pad, expected output, round_mode
    ((7, 7), (3, 3), (2, 2), (0, 0), (3, 3), "CEIL"),
    ((8, 8), (3, 3), (2, 2), (0, 0), (4, 4), "CEIL"),
    ((8, 8), (3, 3), (2, 2), (0, 0), (3, 3), "FLOOR"),
    ((6, 5), (2, 2), (2, 2), (1, 1), (4, 3), "CEIL"),
    ((7, 5), (2, 3), (3, 3), (1, 2), (3, 3), "CEIL"),
    ((5, 5), (3, 4), (2, 3), (2, 3), (4, 3), "CEIL"),
    ((5, 6), (4, 4), (3, 2), (3, 3), (3, 5), "FLOOR"),
    ((5, 5), (1, 1), (3, 3), (0, 0), (3, 3), "CEIL"),
    ((4, 4), (1, 1), (2, 2), (0, 0), (3, 3), "CEIL"),
    ((3, 3), (5, 5), (3, 3), (0, 0), (1, 1), "CEIL"),
    ((9, 4), (2, 1), (5, 4), (1, 0), (2, 1), "CEIL"),
    ((6, 6), (2, 2), (2, 2), (1, 1), (4, 4), "FLOOR"),
]


def layer_for(pool, kernel, stride, pad, mode, size, tops=1):
    text = (
        f'type: "Pooling" bottom: "x" {" ".join(f"top: {chr(34)}t{i}{chr(34)}" for i in range(tops))} pooling_param {{ '
        f"pool: {pool} kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} stride_w: {stride[1]} "
        f"pad_h: {pad[0]} pad_w: {pad[1]} round_mode: {mode} }}"
    )
    return make_layer(text, (2, 2, *size))


def test_ceil_mode_of_the_forks():
    rounded = [
        make_layer(f'type: "Pooling" pooling_param {{ kernel_size: 3 stride: 2 {mode} }}', (1, 1, 8, 8))
        for mode in ("ceil_mode: false", "round_mode: FLOOR", "ceil_mode: true", "")
    ]
    assert [layer.top_shapes([(1, 1, 8, 8)]) for layer in rounded] == [[(1, 1, size, size)] for size in (3, 3, 4, 4)]


@pytest.mark.parametrize("name", cases("Pooling", "PoolingMask"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_max_is_caffes_loop(geometry):
    size, kernel, stride, pad, out, mode = geometry
    layer = layer_for("MAX", kernel, stride, pad, mode, size, tops=2)
    x = torch.randint(-3, 4, (2, 2, *size), generator=torch.Generator().manual_seed(1)).float().requires_grad_()
    assert layer.top_shapes([(2, 2, *size)]) == [(2, 2, *out)] * 2
    pooled, mask = layer(x)
    wanted, wanted_mask = pool_by_loops(x.detach().numpy(), kernel, stride, pad, out, True)
    np.testing.assert_array_equal(pooled.detach().numpy(), wanted)
    np.testing.assert_array_equal(mask.numpy(), wanted_mask)
    grad = torch.rand(pooled.shape)
    pooled.backward(grad)
    flat = np.zeros((2, 2, size[0] * size[1]), np.float32)
    for index in np.ndindex(*wanted.shape):
        if wanted_mask[index] >= 0:
            flat[index[0], index[1], wanted_mask[index]] += grad[index]
    np.testing.assert_allclose(x.grad.flatten(2).numpy(), flat, rtol=1e-5)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_average_is_caffes_loop(geometry):
    size, kernel, stride, pad, out, mode = geometry
    layer = layer_for("AVE", kernel, stride, pad, mode, size)
    x = torch.rand((2, 2, *size), generator=torch.Generator().manual_seed(1), requires_grad=True)
    pooled = layer(x)
    wanted, _ = pool_by_loops(x.detach().numpy(), kernel, stride, pad, out, False)
    np.testing.assert_allclose(pooled.detach().numpy(), wanted, rtol=1e-6)
    if np.isfinite(wanted).all():
        pooled.backward(torch.ones_like(pooled))
        ones, _ = pool_by_loops(np.ones((1, 1, *size), np.float32), kernel, stride, pad, out, False)
        assert x.grad.sum().item() == pytest.approx(4 * ones.sum(), rel=1e-5)


def test_first_maximum_in_row_order_gets_the_gradient():
    layer = make_layer('type: "Pooling" pooling_param { kernel_size: 2 stride: 2 }', (1, 1, 2, 2))
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.flatten().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("pool", ["MAX", "AVE"])
def test_global_pooling_follows_the_image(pool):
    layer = make_layer(f'type: "Pooling" pooling_param {{ pool: {pool} global_pooling: true }}', (1, 2, 3, 4))
    x = torch.rand(2, 2, 5, 6)
    wanted = x.amax((2, 3), keepdim=True) if pool == "MAX" else x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(layer(x), wanted)
    assert layer.top_shapes([(2, 2, 5, 6)]) == [(2, 2, 1, 1)]


def test_stochastic_test_phase_weighs_by_value():
    layer = make_layer('type: "Pooling" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }', (1, 1, 2, 4))
    x = torch.tensor([[[[1.0, 2, 0, 0], [3, 4, 0, 0]]]])
    assert layer(x).flatten().tolist() == [3.0, 0.0]


def test_stochastic_train_phase_draws_in_proportion():
    text = 'type: "Pooling" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }'
    layer = make_layer(text, (500, 4, 3, 3), phase="TRAIN")
    x = torch.tensor([[1.0, 0, 2], [3, 4, 0], [0, 0, 5]]).expand(500, 4, 3, 3).clone().requires_grad_()
    randomness.seed(3)
    pooled = layer(x)
    assert pooled.shape == (500, 4, 2, 2)
    corner = pooled[:, :, 0, 0]
    assert set(corner.unique().tolist()) == {1.0, 3.0, 4.0}
    assert [(corner == v).float().mean().item() for v in (1, 3, 4)] == pytest.approx([0.125, 0.375, 0.5], abs=0.04)
    assert (pooled[:, :, 1, 1] == 5).all()
    pooled.sum().backward()
    assert x.grad.sum() == pooled.numel()


def test_no_images():
    layer = make_layer('type: "Pooling" pooling_param { kernel_size: 3 stride: 2 pad: 2 }', (1, 2, 7, 7))
    assert layer(torch.zeros(0, 2, 7, 7)).shape == (0, 2, 5, 5)


@pytest.mark.parametrize(
    "fields",
    [
        "",
        "kernel_size: 2 kernel_h: 2 kernel_w: 2",
        "kernel_h: 2",
        "kernel_size: 0",
        "kernel_size: 2 stride: 0",
        "kernel_size: 2 pad: 2",
        "kernel_size: 2 pad: 1 pad_h: 1 pad_w: 1",
        "kernel_size: 2 pad_h: 1",
        "kernel_size: 2 stride_w: 1",
        "kernel_size: 2 pool: STOCHASTIC pad: 1",
        "global_pooling: true kernel_size: 2",
        "global_pooling: true stride: 2",
    ],
)
def test_refuses_what_caffe_refuses(fields):
    with pytest.raises(CaffeError):
        make_layer(f'type: "Pooling" pooling_param {{ {fields} }}', (1, 1, 4, 4))


def test_refuses_wrong_bottoms_and_tops():
    with pytest.raises(CaffeError, match="4-axis"):
        make_layer('type: "Pooling" pooling_param { kernel_size: 2 }', (4, 4))
    with pytest.raises(CaffeError, match="mask"):
        make_layer('type: "Pooling" top: "a" top: "b" pooling_param { pool: AVE kernel_size: 2 }', (1, 1, 4, 4))
    with pytest.raises(CaffeError, match="no output"):
        layer = make_layer('type: "Pooling" pooling_param { kernel_size: 9 }', (1, 1, 4, 4))
        layer.top_shapes([(1, 1, 4, 4)])


@pytest.mark.skipif(not native.load().loaded, reason="the extension is not built")
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_native_maxima_are_those_of_the_twin(geometry, dtype):
    size, kernel, stride, pad, out, mode = geometry
    windows = Windows(kernel, stride, pad, mode == "CEIL")
    x = torch.randint(-3, 4, (3, 2, *size), generator=torch.Generator().manual_seed(2)).to(dtype)
    x[0, 0, 0, :2] = torch.nan
    native_top, native_index = functional.max_pool_indices(x, *windows[:3], out)
    grad = torch.randn(native_top.shape, dtype=dtype)
    native_grad = torch.ops.caffe_bridge.max_pool_backward(grad, native_index, *size)
    with functional.pure_torch():
        top, index = functional.max_pool_indices(x, *windows[:3], out)
        plain_grad = torch.ops.caffe_bridge.max_pool_backward(grad, native_index, *size)
    torch.testing.assert_close(native_top, top, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(functional.max_pool(x, *windows[:3], out), top, rtol=0, atol=0, equal_nan=True)
    known = ~top.isnan()
    assert torch.equal(native_index[known], index[known])
    torch.testing.assert_close(native_grad, plain_grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_channels_side_by_side_have_the_same_maxima(geometry):
    size, kernel, stride, pad, _, mode = geometry
    windows = Windows(kernel, stride, pad, mode == "CEIL")
    x = torch.randint(-3, 4, (3, 2, *size), generator=torch.Generator().manual_seed(2)).float()
    x[0, 0, 0, :2] = torch.nan
    beside = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(max_pool(beside, windows), max_pool(x, windows), rtol=0, atol=0, equal_nan=True)


def test_max_pool_has_two_derivatives():
    x = torch.randperm(2 * 2 * 7 * 6, generator=torch.Generator().manual_seed(3)).view(2, 2, 7, 6).double()
    x.requires_grad_()
    windows = Windows((3, 2), (2, 2), (1, 0))

    def pool(images):
        return max_pool(images, windows)

    assert torch.autograd.gradcheck(pool, x)
    assert torch.autograd.gradgradcheck(pool, x)


def test_max_pool_is_a_standard_operation_where_nets_are_exported():
    net = make_layer('type: "Pooling" pooling_param { kernel_size: 3 stride: 2 }', (1, 2, 9, 9))
    program = torch.export.export(net, (torch.randn(1, 2, 9, 9),))
    assert not [node for node in program.graph.nodes if "caffe_bridge" in str(node.target)]


@pytest.mark.skipif(not native.load().loaded, reason="the extension is not built")
def test_a_kernel_far_larger_than_the_image_takes_no_memory():
    x = torch.randn(1, 1, 4, 5)
    far = 2**29
    top = functional.max_pool(x, (far, far), (far, far), (3, 3), (1, 2))
    assert top.tolist() == [[[[x.max().item(), torch.finfo(torch.float32).min]]]]
    with pytest.raises(RuntimeError, match="out of range"):
        functional.max_pool(x, (2, 2), (2**31, 1), (0, 0), (1, 4))
