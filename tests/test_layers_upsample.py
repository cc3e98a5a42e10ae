import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("Upsample_SegNet", "Upsample_YOLO", folder="forks"))
def test_recorded(name):
    check_case(name)


def unpool(fields, shape=(1, 2, 3, 4)):
    return make_layer(f'type: "Upsample" upsample_param {{ {fields} }}', shape, shape)


def unpool_by_loops(values, places, count):
    out = np.zeros((len(values), count), np.float32)
    for n, k in np.ndindex(*values.shape):
        out[n, places[n, k]] = values[n, k]
    return out


def test_the_last_of_several_values_counts_and_all_read_its_gradient():
    layer = unpool("upsample_h: 2 upsample_w: 3", (2, 1, 2, 2))
    x = torch.arange(8.0).view(2, 1, 2, 2).requires_grad_()
    mask = torch.tensor([1.0, 4, 1, 4, 0, 0, 0, 5]).view(2, 1, 2, 2)
    wanted = unpool_by_loops(x.detach().view(2, 4).numpy(), mask.view(2, 4).int().numpy(), 6)
    top = layer(x, mask)
    np.testing.assert_array_equal(top.detach().flatten(1).numpy(), wanted)
    grad = torch.rand(top.shape)
    top.backward(grad)
    torch.testing.assert_close(x.grad.flatten(1), grad.flatten(1).gather(1, mask.flatten(1).long()))


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ("", (6, 8)),
        ("scale: 3", (9, 12)),
        ("scale_h: 2 scale_w: 3", (6, 12)),
        ("pad_out_h: true", (5, 8)),
        ("scale: 2 pad_out_h: true pad_out_w: true", (5, 7)),
        ("upsample_h: 5 upsample_w: 9 scale: 7", (5, 9)),
    ],
)
def test_unpooled_sizes(fields, size):
    layer = unpool(fields)
    assert layer.top_shapes([(1, 2, 3, 4)] * 2) == [(1, 2, *size)]
    assert layer.top_shapes([(2, 2, 2, 2)] * 2) == [(2, 2, *size)]


@pytest.mark.parametrize(
    "fields",
    [
        "scale: 1",
        "scale_h: 2",
        "scale: 2 scale_h: 2 scale_w: 2",
        "scale: 3 pad_out_w: true",
        "upsample_h: 1 upsample_w: 5",
    ],
)
def test_refuses_parameters(fields):
    with pytest.raises(CaffeError):
        unpool(fields)


def test_refuses_bottoms():
    with pytest.raises(CaffeError, match="mask"):
        make_layer('type: "Upsample"', (1, 2, 3, 4), (1, 2, 3, 5))
    with pytest.raises(CaffeError, match="outside"):
        unpool("")(torch.zeros(1, 2, 3, 4), torch.full((1, 2, 3, 4), 48.0))


@pytest.mark.parametrize(("fields", "scale"), [("", 1), ("scale: 2", 2), ("scale: 3", 3)])
def test_repeats(fields, scale):
    layer = make_layer(f'type: "Upsample" upsample_param {{ {fields} }}', (2, 2, 3, 2)).double()
    x = torch.rand(2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    wanted = x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    assert torch.equal(layer(x), wanted) and layer.top_shapes([(2, 2, 3, 2)]) == [tuple(wanted.shape)]
    assert torch.autograd.gradcheck(layer, x)


def test_repeat_refuses():
    with pytest.raises(CaffeError, match="at least 1"):
        make_layer('type: "Upsample" upsample_param { scale: 0 }', (1, 1, 2, 2))
    with pytest.raises(CaffeError, match="N, C, H, W"):
        make_layer('type: "Upsample"', (2, 2))
    with pytest.raises(CaffeError, match="elements"):
        make_layer('type: "Upsample" upsample_param { scale: 100000 }', (1, 1, 2, 2)).top_shapes([(1, 1, 2, 2)])
