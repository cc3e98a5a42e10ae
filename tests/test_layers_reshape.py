import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("Reshape", "Flatten", "Split"))
def test_recorded(name):
    check_case(name)


def reshape(fields, shape):
    layer = make_layer(f'type: "Reshape" reshape_param {{ {fields} }}', shape)
    (wanted,) = layer.top_shapes([shape])
    assert layer(torch.zeros(shape)).shape == wanted
    return wanted


@pytest.mark.parametrize(
    ("fields", "shape", "wanted"),
    [
        ("shape { dim: 0 dim: 2 dim: -1 dim: 0 }", (1, 18, 5, 7), (1, 2, 45, 7)),
        ("shape { dim: -1 dim: 0 dim: 0 }", (2, 3, 4), (2, 3, 4)),
        ("shape { dim: 6 dim: -1 }", (2, 3, 4), (6, 4)),
        ("shape { dim: 2 dim: -1 } axis: 1 num_axes: 1", (3, 8, 5), (3, 2, 4, 5)),
        ("shape { dim: 1 } axis: -1", (2, 3), (2, 3, 1)),
        ("shape { dim: 1 } axis: 1 num_axes: 0", (2, 3), (2, 1, 3)),
        ("shape { } axis: 1 num_axes: 1", (2, 1, 3), (2, 3)),
        ("shape { dim: -1 } axis: -3", (2, 3, 4), (2, 12)),
        ("shape { dim: -1 dim: 0 } axis: 0 num_axes: 1", (6, 3), (2, 3, 3)),
        ("shape { dim: 0 dim: -1 dim: 2 }", (0, 6), (0, 3, 2)),
        ("shape { dim: 0 dim: -1 }", (0, 6, 7), (0, 42)),
        ("shape { dim: -1 dim: 4 }", (0, 8), (0, 4)),
    ],
)
def test_shapes(fields, shape, wanted):
    assert reshape(fields, shape) == wanted


@pytest.mark.parametrize(
    "fields",
    [
        "shape { dim: -1 dim: -1 }",
        "shape { dim: -2 }",
        "shape { dim: 5 dim: -1 }",
        "shape { dim: 5 }",
        "shape { dim: 2 dim: 3 dim: 0 }",
        "shape { dim: 6 } axis: 3",
        "shape { dim: 6 } axis: -4",
        "shape { dim: 6 } axis: 1 num_axes: 2",
        "shape { dim: 6 } num_axes: -2",
    ],
)
def test_refuses_what_caffe_refuses(fields):
    with pytest.raises(CaffeError):
        reshape(fields, (2, 3))


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ("", (2, 60)),
        ("axis: 0 end_axis: -2", (24, 5)),
        ("axis: -2", (2, 3, 20)),
        ("axis: 2 end_axis: 1", (2, 3, 1, 4, 5)),
        ("axis: 2 end_axis: 2", (2, 3, 4, 5)),
    ],
)
def test_flatten(fields, wanted):
    layer = make_layer(f'type: "Flatten" flatten_param {{ {fields} }}', (2, 3, 4, 5))
    assert layer.top_shapes([(2, 3, 4, 5)]) == [wanted]
    assert layer(torch.zeros(2, 3, 4, 5)).shape == wanted


def test_flatten_refuses_an_end_before_its_start():
    with pytest.raises(CaffeError, match="end_axis"):
        make_layer('type: "Flatten" flatten_param { axis: 2 end_axis: 0 }', (1, 1, 1)).top_shapes([(1, 1, 1)])


def test_split_adds_gradients():
    layer = make_layer('type: "Split" top: "a" top: "b" top: "c"', (2,))
    x = torch.ones(2, requires_grad=True)
    a, b, c = layer(x)
    (a + 2 * b + 3 * c).sum().backward()
    assert x.grad.tolist() == [6, 6]


@pytest.mark.parametrize("kind", ["Reshape", "Flatten", "Split"])
def test_not_in_place(kind):
    with pytest.raises(CaffeError, match="in place"):
        make_layer(f'type: "{kind}" bottom: "x" top: "x"', (1, 1))
