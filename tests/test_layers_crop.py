import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("Crop"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize(
    ("fields", "reference", "part"),
    [
        ("", (9, 9, 3, 2), np.s_[:, :, :3, :2]),
        ("offset: 1", (9, 9, 3, 2), np.s_[:, :, 1:4, 1:3]),
        ("axis: -1 offset: 2", (9, 9, 9, 3), np.s_[..., 2:5]),
        ("axis: -3 offset: 0 offset: 2 offset: 1", (9, 2, 3, 4), np.s_[:, :2, 2:5, 1:5]),
        ("axis: 0", (1, 3, 5, 5), np.s_[:1]),
        ("axis: 3 offset: 5", (2, 3, 5, 0), np.s_[..., 5:]),
    ],
)
def test_part_and_gradient(fields, reference, part):
    shape = (2, 3, 5, 5)
    layer = make_layer(f'type: "Crop" crop_param {{ {fields} }}', shape, reference)
    x, size = torch.rand(shape, requires_grad=True), torch.empty(reference, requires_grad=True)
    top = layer(x, size)
    assert [tuple(top.shape)] == layer.top_shapes([shape, reference])
    assert torch.equal(top, x[part])
    top.sum().backward()
    wanted = np.zeros(shape, "f")
    wanted[part] = 1
    assert np.array_equal(x.grad.numpy(), wanted) and size.grad is None


@pytest.mark.parametrize(
    ("fields", "reference"),
    [
        ("offset: 3", (2, 3, 3, 2)),
        ("", (2, 3, 6, 2)),
        ("offset: 1 offset: 1 offset: 1", (2, 3, 2, 2)),
        ("axis: 4", (2, 3, 2, 2)),
        ("axis: -5", (2, 3, 2, 2)),
        ("", (2, 3, 2)),
        ("offset: 4294967295", (2, 3, 2, 2)),
    ],
)
def test_refusals(fields, reference):
    shapes = [(2, 3, 5, 5), reference]
    with pytest.raises(CaffeError):
        make_layer(f'type: "Crop" crop_param {{ {fields} }}', *shapes).top_shapes(shapes)
