import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("Slice"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize(
    ("fields", "tops", "sizes"),
    [
        ("axis: -1", 3, [2, 2, 2]),
        ("slice_dim: 1 slice_point: 1", 2, [1, 5]),
        ("slice_point: 2 slice_point: 3", 3, [2, 1, 3]),
        ("slice_point: 6", 2, [6, 0]),
        ("", 1, [6]),
    ],
)
def test_sizes(fields, tops, sizes):
    names = " ".join(f'top: "{i}"' for i in range(tops))
    layer = make_layer(f'type: "Slice" {names} slice_param {{ {fields} }}', (2, 6))
    assert layer.top_shapes([(2, 6)]) == [(2, size) for size in sizes]
    x = torch.rand(2, 6)
    made = layer(x)
    assert torch.equal(torch.cat(made, 1) if tops > 1 else made, x)


@pytest.mark.parametrize(
    "fields",
    ["axis: 1 slice_dim: 1", "slice_point: 1 slice_point: 2", "slice_point: 0", "slice_point: 7", "axis: 2", "axis: 0"],
)
def test_refuses_what_caffe_refuses(fields):
    with pytest.raises(CaffeError):
        layer = make_layer(f'type: "Slice" top: "a" top: "b" slice_param {{ {fields} }}', (3, 6))
        layer.top_shapes([(3, 6)])
