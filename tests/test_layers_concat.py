import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("Concat"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("fields", ["axis: -2", "concat_dim: 1", "axis: 1", ""])
def test_axis(fields):
    shapes = [(2, 3, 4), (2, 0, 4), (2, 1, 4)]
    layer = make_layer(f'type: "Concat" concat_param {{ {fields} }}', *shapes)
    assert layer.top_shapes(shapes) == [(2, 4, 4)]
    assert layer(*map(torch.zeros, shapes)).shape == (2, 4, 4)


def test_refusals():
    with pytest.raises(CaffeError, match="not both"):
        make_layer('type: "Concat" concat_param { axis: 1 concat_dim: 1 }', (1, 1))
    for shapes in ([(2, 3), (3, 3)], [(2, 3), (2, 3, 1)]):
        with pytest.raises(CaffeError, match="agree"):
            make_layer('type: "Concat"', *shapes).top_shapes(shapes)
