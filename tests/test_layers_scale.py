import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("Scale", "Bias"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize(
    ("fields", "blob"),
    [
        ("", (3,)),
        ("axis: 0", (2,)),
        ("axis: 1 num_axes: 2", (3, 4)),
        ("axis: -2 num_axes: -1", (4, 5)),
        ("axis: 0 num_axes: -1", (2, 3, 4, 5)),
        ("num_axes: 0", ()),
    ],
)
@pytest.mark.parametrize("kind", ["Scale", "Bias"])
def test_learned_operand_covers_its_axes(kind, fields, blob):
    field = kind.lower()
    filler = 'filler { type: "gaussian" std: 1 }'
    layer = make_layer(f'type: "{kind}" {field}_param {{ {fields} {filler} }}', (2, 3, 4, 5))
    assert layer.blobs[0].shape == blob
    x = torch.rand(2, 3, 4, 5, requires_grad=True)
    axis = 0 if not blob else next(a for a in range(4) if x.shape[a : a + len(blob)] == blob)
    spread = layer.blobs[0].detach().reshape(*[1] * axis, *blob, *[1] * (4 - axis - len(blob)))
    torch.testing.assert_close(layer(x), x * spread if kind == "Scale" else x + spread)
    layer(x).sum().backward()
    assert layer.blobs[0].grad.shape == blob


def test_scale_starts_as_the_identity_and_bias_term_as_zero():
    layer = make_layer('type: "Scale" scale_param { bias_term: true }', (2, 3))
    assert [blob.tolist() for blob in layer.blobs] == [[1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("factor", [(3, 4), (3,), ()])
def test_second_bottom_with_a_learned_bias(factor):
    text = 'type: "Scale" scale_param { bias_term: true bias_filler { type: "constant" value: 2 } }'
    layer = make_layer(text, (2, 3, 4), factor)
    assert [tuple(blob.shape) for blob in layer.blobs] == [factor]
    assert layer.top_shapes([(2, 3, 4), factor]) == [(2, 3, 4)]
    x, scale = torch.rand(2, 3, 4), torch.rand(factor, requires_grad=True)
    top = layer(x, scale)
    torch.testing.assert_close(top, x * (scale.unsqueeze(-1) if factor == (3,) else scale) + 2)
    top.sum().backward()
    assert scale.grad.shape == factor


@pytest.mark.parametrize("kind", ["Scale", "Bias"])
@pytest.mark.parametrize("fields", ["axis: 2", "num_axes: -2", "axis: 1 num_axes: 2"])
def test_refuses_what_caffe_refuses(kind, fields):
    with pytest.raises(CaffeError):
        make_layer(f'type: "{kind}" {kind.lower()}_param {{ {fields} }}', (2, 3))


@pytest.mark.parametrize("kind", ["Scale", "Bias"])
def test_refuses_operands_that_do_not_fit(kind):
    for operand in ((4,), (3, 1)):
        with pytest.raises(CaffeError, match="does not fit"):
            make_layer(f'type: "{kind}"', (2, 3), operand).top_shapes([(2, 3), operand])


@pytest.mark.parametrize(
    ("fields", "shape", "sets"),
    [
        ("", (1, 3, 4, 5), True),
        ("", (2, 3, 4, 5), False),
        ("axis: 0", (3, 4), True),
        ("axis: 0 num_axes: -1", (2, 3), True),
        ("axis: 1 num_axes: -1", (2, 3), False),
        ("", (1, 1, 4, 5), False),
        ("num_axes: 0", (1, 3), False),
        ("num_axes: 0", (1, 1), True),
    ],
)
def test_the_scales_diff_is_set_where_nothing_is_left_to_sum(fields, shape, sets):
    layer = make_layer(f'type: "Scale" scale_param {{ bias_term: true {fields} }}', shape)
    assert layer.sets_gradient(0, [shape]) == sets
    assert not layer.sets_gradient(1, [shape])
