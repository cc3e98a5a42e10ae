import pytest
import torch
from layer_cases import make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize(
    ("fields", "shapes"),
    [
        ("", [(), ()]),
        ("shape { dim: 2 dim: 3 }", [(2, 3), (2, 3)]),
        ("shape { dim: 2 } shape { dim: 0 dim: 4 }", [(2,), (0, 4)]),
    ],
)
def test_input_shapes(fields, shapes):
    layer = make_layer(f'type: "Input" top: "a" top: "b" input_param {{ {fields} }}')
    assert layer.top_shapes([]) == shapes
    assert [tuple(top.shape) for top in layer()] == shapes


@pytest.mark.parametrize(
    "fields",
    ["shape { } shape { } shape { }", "shape { dim: -1 }", "shape { dim: 70000 dim: 70000 }"],
)
def test_input_refusals(fields):
    with pytest.raises(CaffeError, match="shape"):
        make_layer(f'type: "Input" top: "a" top: "b" input_param {{ {fields} }}')


def dummy(fields, tops=2):
    names = " ".join(f'top: "{i}"' for i in range(tops))
    return make_layer(f'type: "DummyData" {names} dummy_data_param {{ {fields} }}')


def test_dummy_constants_are_filled_once_and_the_rest_each_time():
    layer = dummy(
        'shape { dim: 5 } data_filler { type: "constant" value: 3 } data_filler { type: "uniform" min: 1 max: 2 }'
    )
    assert layer.refill == [False, True]
    (constant, drawn), (again, drawn_again) = layer(), layer()
    assert constant is again and constant.tolist() == [3] * 5
    assert not torch.equal(drawn, drawn_again) and bool(((drawn >= 1) & (drawn <= 2)).all())


def test_dummy_shapes():
    assert dummy("shape { dim: 2 dim: 3 }").top_shapes([]) == [(2, 3)] * 2
    legacy = dummy("num: 1 num: 2 channels: 3 height: 4 width: 5")
    assert legacy.top_shapes([]) == [(1, 3, 4, 5), (2, 3, 4, 5)]
    assert [tuple(top.shape) for top in legacy()] == legacy.top_shapes([])
    assert not any(top.any() for top in legacy())


@pytest.mark.parametrize(
    "fields",
    [
        "",
        "num: 1",
        "num: 1 channels: 1 height: 1 width: 1 shape { dim: 1 }",
        "shape { dim: 1 } shape { dim: 1 } shape { dim: 1 }",
        'shape { dim: 1 } data_filler { type: "gausian" }',
        "shape { dim: 1 } " + 'data_filler { type: "constant" }' * 3,
        "shape { dim: -1 }",
    ],
)
def test_dummy_refusals(fields):
    with pytest.raises(CaffeError):
        dummy(fields)
