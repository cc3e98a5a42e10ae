import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("Tile"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
@pytest.mark.parametrize("tiles", [1, 3])
def test_repeats_and_adds_gradients(axis, tiles):
    shape = (2, 3, 4)
    layer = make_layer(f'type: "Tile" tile_param {{ axis: {axis} tiles: {tiles} }}', shape)
    x = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    top = layer(x)
    assert [tuple(top.shape)] == layer.top_shapes([shape])
    assert torch.equal(top, torch.cat([x] * tiles, axis))
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("fields", ["", "tiles: 0", "tiles: -1", "tiles: 2 axis: 2"])
def test_refusals(fields):
    with pytest.raises(CaffeError):
        make_layer(f'type: "Tile" tile_param {{ {fields} }}', (2, 3)).top_shapes([(2, 3)])
