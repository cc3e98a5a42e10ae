import pytest
import torch
from layer_cases import cases, check_case, make_layer

import caffe_bridge
from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("Filter"))
def test_recorded(name):
    check_case(name, fixed_shapes=False)


@pytest.mark.parametrize("selector_shape", [(4,), (4, 1), (4, 1, 1)])
def test_several_bottoms(selector_shape):
    layer = make_layer('type: "Filter" top: "a" top: "b"', (4, 2), (4,), selector_shape)
    assert layer.top_shapes([(4, 2), (4,), selector_shape]) == [(4, 2), (4,)]
    first, second = torch.rand(4, 2, requires_grad=True), torch.rand(4)
    tops = layer(first, second, torch.tensor([0.0, -1, 0.5, 0]).reshape(selector_shape))
    assert torch.equal(tops[0], first[1:3]) and torch.equal(tops[1], second[1:3])
    tops[0].backward(torch.tensor([[1.0, 2], [3, 4]]))
    assert first.grad.tolist() == [[0, 0], [1, 2], [3, 4], [0, 0]]


def test_nothing_selected():
    layer = make_layer('type: "Filter"', (3, 2), (3,))
    items = torch.rand(3, 2, requires_grad=True)
    top = layer(items, torch.zeros(3))
    top.sum().backward()
    assert top.shape == (0, 2) and not items.grad.any()


def test_a_net_has_room_for_all_items_before_the_first_pass():
    text = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 2 } } }
              layer { name: "s" type: "Input" top: "s" input_param { shape { dim: 3 } } }
              layer { name: "f" type: "Filter" bottom: "x" bottom: "s" top: "y" }"""
    net = caffe_bridge.Net(text)
    assert net.graph.shapes["y"] == (3, 2)
    assert net(x=torch.rand(3, 2), s=torch.tensor([0.0, 1, 0]))["y"].shape == (1, 2)


@pytest.mark.parametrize(
    ("tops", "shapes"),
    [
        ('top: "a" top: "b"', [(3,), (3,)]),
        ('top: "a"', [(3,), (2,)]),
        ('top: "a"', [(3, 2), (3, 2)]),
        ('top: "a"', [(3,), ()]),
        ('top: "a" top: "b"', [(3,), (2,), (3,)]),
    ],
)
def test_refusals(tops, shapes):
    with pytest.raises(CaffeError):
        make_layer(f'type: "Filter" {tops}', *shapes).top_shapes(shapes)
