import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("Interp", folder="forks"))
def test_recorded(name):
    check_case(name)


def resize_by_loops(images, size):
    out = np.zeros((*images.shape[:2], *size))
    for i, j in np.ndindex(*size):
        y, dy = place(i, images.shape[2], size[0])
        z, dz = place(j, images.shape[3], size[1])
        y1, z1 = min(y + 1, images.shape[2] - 1), min(z + 1, images.shape[3] - 1)
        top = images[:, :, y, z] * (1 - dz) + images[:, :, y, z1] * dz
        bottom = images[:, :, y1, z] * (1 - dz) + images[:, :, y1, z1] * dz
        out[:, :, i, j] = top * (1 - dy) + bottom * dy
    return out


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ("shrink_factor: 2", (4, 3)),
        ("shrink_factor: 3 height: 7 width: 9", (3, 2)),
        ("zoom_factor: 3 height: 7 width: 9", (22, 16)),
        ("height: 5 width: 11 shrink_factor: 2 zoom_factor: 2", (5, 11)),
        ("shrink_factor: 2 zoom_factor: 3", (10, 7)),
        ("height: 1 width: 1", (1, 1)),
        ("height: 4 width: 4 pad_beg: -2 pad_end: -1", (4, 4)),
        ("zoom_factor: 2 pad_beg: -1", (13, 9)),
    ],
)
def test_sizes_and_values(fields, size):
    layer = make_layer(f'type: "Interp" interp_param {{ {fields} }}', (2, 3, 8, 6)).double()
    assert layer.top_shapes([(2, 3, 8, 6)]) == [(2, 3, *size)]
    x = torch.rand(2, 3, 8, 6, dtype=torch.float64, requires_grad=True)
    begin, end = layer.begin, layer.end
    inner = x.detach().numpy()[:, :, begin : 8 - end, begin : 6 - end]
    wanted = resize_by_loops(inner, size)
    np.testing.assert_allclose(layer(x).detach().numpy(), wanted, rtol=1e-5, atol=1e-6)
    assert torch.autograd.gradcheck(layer, x[:1, :1].detach().requires_grad_())
    layer(x[:1, :1]).sum().backward()
    assert x.grad.sum().item() == pytest.approx(size[0] * size[1])


def place(i, length, out):
    source = i * (length - 1) / (out - 1) if out > 1 else 0.0
    whole = min(int(source + 1e-9), length - 1)
    return whole, source - whole


@pytest.mark.parametrize(
    "fields",
    [
        "",
        "height: 3",
        "shrink_factor: 0",
        "pad_beg: 1 zoom_factor: 2",
        "zoom_factor: 2 pad_beg: -4 pad_end: -2",
        "height: 0 width: 3",
    ],
)
def test_refuses(fields):
    with pytest.raises(CaffeError):
        make_layer(f'type: "Interp" interp_param {{ {fields} }}', (1, 1, 8, 6)).top_shapes([(1, 1, 8, 6)])
