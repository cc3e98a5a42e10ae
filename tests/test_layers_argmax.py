import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("ArgMax"))
def test_recorded(name):
    check_case(name)


def ranked_by_loops(values, k):
    """The k best (value, index) pairs, sorted downwards as pairs: of equal values the larger index first."""
    pairs = sorted(((float(v), i) for i, v in enumerate(values)), reverse=True)[:k]
    return [i for _, i in pairs], [v for v, _ in pairs]


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("axis", [0, 1, -1, -2])
@pytest.mark.parametrize("with_values", [False, True])
def test_along_an_axis_with_ties(k, axis, with_values):
    shape = (6, 5, 7)
    scores = np.random.randint(0, 3, shape).astype("f")
    text = f'type: "ArgMax" argmax_param {{ axis: {axis} top_k: {k} out_max_val: {str(with_values).lower()} }}'
    layer = make_layer(text, shape)
    top = layer(torch.from_numpy(scores))
    wanted = np.apply_along_axis(lambda line: ranked_by_loops(line, k)[with_values], axis, scores)
    assert [tuple(top.shape)] == layer.top_shapes([shape])
    np.testing.assert_array_equal(top.numpy(), wanted)


@pytest.mark.parametrize(
    ("shape", "out"),
    [((3,), (3, 1, 1)), ((3, 4), (3, 1, 1)), ((3, 2, 2, 1), (3, 1, 1, 1)), ((2, 2, 1, 2, 1), (2, 1, 1, 1, 1))],
)
def test_shapes_over_everything(shape, out):
    layer = make_layer('type: "ArgMax"', shape)
    assert layer.top_shapes([shape]) == [out] == [tuple(layer(torch.rand(shape)).shape)]


def test_indices_and_values_over_everything():
    scores = torch.randint(0, 3, (3, 2, 4)).float()
    top = make_layer('type: "ArgMax" argmax_param { out_max_val: true top_k: 3 }', (3, 2, 4))(scores)
    assert top.tolist() == [list(ranked_by_loops(image.flatten(), 3)) for image in scores]


def test_has_no_gradient_and_keeps_the_dtype():
    layer = make_layer('type: "ArgMax"', (2, 3))
    top = layer(torch.rand(2, 3, dtype=torch.float64, requires_grad=True))
    assert top.dtype == torch.float64 and not top.requires_grad and not layer.allow_force_backward(0)


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ("top_k: 0", (2, 3)),
        ("top_k: 4", (2, 3)),
        ("top_k: 3 axis: 0", (2, 3)),
        ("axis: 2", (2, 3)),
        ("", ()),
        ("", (2, 0)),
    ],
)
def test_refusals(fields, shape):
    with pytest.raises(CaffeError):
        make_layer(f'type: "ArgMax" argmax_param {{ {fields} }}', shape).top_shapes([shape])
