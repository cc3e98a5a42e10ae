import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError, Net


@pytest.mark.parametrize("name", cases("Permute", folder="forks"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize(("order", "full"), [((2, 0), (2, 0, 1, 3)), ((), (0, 1, 2, 3)), ((3, 2, 1, 0), (3, 2, 1, 0))])
def test_axes_not_listed_follow(order, full):
    fields = " ".join(f"order: {axis}" for axis in order)
    layer = make_layer(f'type: "Permute" permute_param {{ {fields} }}', (2, 3, 4, 5))
    x = torch.rand(2, 3, 4, 5)
    assert torch.equal(layer(x), x.permute(full))
    assert layer.top_shapes([(2, 3, 4, 5)]) == [tuple(x.permute(full).shape)]


def test_an_order_that_changes_nothing_shares_memory():
    assert make_layer('type: "Permute"', (2, 3)).shares_data
    assert not make_layer('type: "Permute" permute_param { order: 1 }', (2, 3)).shares_data


def test_new_number_of_axes():
    layer = make_layer('type: "Permute" permute_param { order: 1 }', (2, 3))
    with pytest.raises(CaffeError, match="2 axes"):
        layer.top_shapes([(2, 3, 4)])


@pytest.mark.parametrize("fields", ["order: 1 order: 1", "order: 2"])
def test_refuses(fields):
    with pytest.raises(CaffeError, match="order"):
        make_layer(f'type: "Permute" permute_param {{ {fields} }}', (2, 3))


def test_compiles_with_ssd_heads():
    """Permute and Flatten as SSD uses them trace without a break."""
    net = Net(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 8 dim: 2 dim: 3 } } } '
        'layer { name: "p" type: "Permute" bottom: "x" top: "p" permute_param { order: 0 order: 2 order: 3 order: 1 } }'
        'layer { name: "f" type: "Flatten" bottom: "p" top: "f" }'
    )
    x = torch.rand(1, 8, 2, 3)
    exported = torch.export.export(net, (), {"x": x})
    assert torch.equal(exported.module()(x=x)["f"], x.permute(0, 2, 3, 1).flatten(1))
