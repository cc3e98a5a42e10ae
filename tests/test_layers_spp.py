import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("SPP"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("size", [(8, 8), (9, 12), (11, 15)])
def test_levels_are_pooling_layers(method, size):
    shape = (2, 3, *size)
    layer = make_layer(f'type: "SPP" spp_param {{ pyramid_height: 3 pool: {method} }}', shape)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    levels = []
    for bins in (1, 2, 4):
        (kernel_h, kernel_w) = ((side + bins - 1) // bins for side in size)
        pad_h, pad_w = (kernel_h * bins - size[0] + 1) // 2, (kernel_w * bins - size[1] + 1) // 2
        fields = f"""kernel_h: {kernel_h} kernel_w: {kernel_w} stride_h: {kernel_h} stride_w: {kernel_w}
                     pad_h: {pad_h} pad_w: {pad_w} pool: {method}"""
        levels.append(make_layer(f'type: "Pooling" pooling_param {{ {fields} }}', shape)(x).flatten(1))
    top = layer(x)
    assert layer.top_shapes([shape]) == [tuple(top.shape)]
    assert torch.equal(top, torch.cat(levels, 1))
    assert torch.autograd.gradcheck(layer, (x,), fast_mode=True)


def test_one_level_keeps_four_axes():
    x = torch.rand(2, 3, 5, 4)
    top = make_layer('type: "SPP" spp_param { pyramid_height: 1 pool: AVE }', x.shape)(x)
    torch.testing.assert_close(top, x.mean((2, 3), keepdim=True))


def test_another_image_size_than_at_set_up():
    layer = make_layer('type: "SPP" spp_param { pyramid_height: 2 }', (1, 2, 8, 8))
    assert layer(torch.rand(1, 2, 10, 12)).shape == (1, 10) == layer.top_shapes([(1, 2, 10, 12)])[0]


def test_stochastic_levels():
    layer = make_layer('type: "SPP" spp_param { pyramid_height: 2 pool: STOCHASTIC }', (1, 1, 2, 2))
    top = layer(torch.tensor([[[[1.0, 2], [3, 4]]]]))
    assert top.tolist() == [[3, 1, 2, 3, 4]]
    with pytest.raises(CaffeError, match="padding"):
        layer.top_shapes([(1, 1, 3, 3)])


@pytest.mark.parametrize(
    ("height", "shape"),
    [(0, (1, 1, 4, 4)), (3, (1, 1, 3, 3)), (4000000000, (1, 1, 4, 4)), (1, (1, 4, 4)), (1, (1, 1, 0, 4))],
)
def test_refusals(height, shape):
    with pytest.raises(CaffeError):
        make_layer(f'type: "SPP" spp_param {{ pyramid_height: {height} }}', shape).top_shapes([shape])
