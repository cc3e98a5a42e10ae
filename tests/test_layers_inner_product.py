import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("InnerProduct"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("transpose", ["true", "false"])
def test_everything_from_axis_on_is_one_vector(axis, transpose):
    fields = f"num_output: 5 axis: {axis} transpose: {transpose}"
    weight = 'weight_filler { type: "xavier" } bias_filler { type: "constant" value: 2 }'
    layer = make_layer(f'type: "InnerProduct" inner_product_param {{ {fields} {weight} }}', (2, 3, 4))
    x = torch.rand(2, 3, 4)
    matrix = layer.blobs[0] if transpose == "true" else layer.blobs[0].T
    lead = x.shape[: axis % 3]
    wanted = (x.reshape(*lead, -1) @ matrix + 2).reshape(*lead, 5)
    torch.testing.assert_close(layer(x), wanted)
    assert layer.top_shapes([(2, 3, 4)]) == [(*lead, 5)]


def test_no_rows():
    layer = make_layer('type: "InnerProduct" inner_product_param { num_output: 5 bias_term: false }', (2, 3, 4))
    assert len(layer.blobs) == 1
    top = layer(torch.zeros(0, 3, 4))
    assert top.shape == (0, 5)
    top.sum().backward()
    assert not layer.blobs[0].grad.any()


def test_refusals():
    with pytest.raises(CaffeError, match="num_output"):
        make_layer('type: "InnerProduct" inner_product_param { }', (2, 3))
    with pytest.raises(CaffeError, match="axis"):
        make_layer('type: "InnerProduct" inner_product_param { num_output: 1 axis: 2 }', (2, 3))
    layer = make_layer('type: "InnerProduct" inner_product_param { num_output: 1 }', (2, 3))
    with pytest.raises(CaffeError, match="3 inputs"):
        layer.top_shapes([(2, 4)])
