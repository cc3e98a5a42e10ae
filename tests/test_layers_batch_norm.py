import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("BatchNorm"))
def test_recorded(name):
    check_case(name)


def test_running_statistics_are_undivided_sums():
    layer = make_layer('type: "BatchNorm" batch_norm_param { moving_average_fraction: 0.5 }', (4, 2, 3), phase="TRAIN")
    first, second = torch.rand(4, 2, 3), torch.rand(4, 2, 3)
    layer(first), layer(second)
    mean, variance = ([f(x.transpose(0, 1).flatten(1), 1) for x in (first, second)] for f in (torch.mean, torch.var))
    torch.testing.assert_close(layer.blobs[0].detach(), mean[0] / 2 + mean[1])
    torch.testing.assert_close(layer.blobs[1].detach(), variance[0] / 2 + variance[1])
    assert layer.blobs[2].tolist() == [1.5]


def test_phase_decides_unless_use_global_stats_does():
    shape = (4, 2)
    for phase, fields, moves in [
        ("TRAIN", "", True),
        ("TEST", "", False),
        ("TRAIN", "use_global_stats: true", False),
        ("TEST", "use_global_stats: false", True),
    ]:
        layer = make_layer(f'type: "BatchNorm" batch_norm_param {{ {fields} }}', shape, phase=phase)
        layer(torch.rand(shape))
        assert bool(layer.blobs[2].item()) == moves


def test_without_statistics_only_eps_divides():
    layer = make_layer('type: "BatchNorm" batch_norm_param { eps: 0.25 }', (2, 2))
    x = torch.rand(2, 2, requires_grad=True)
    top = layer(x)
    top.sum().backward()
    torch.testing.assert_close(top, x * 2)
    assert x.grad.flatten().tolist() == [2] * 4


def test_one_value_per_channel():
    layer = make_layer('type: "BatchNorm"', (1, 3), phase="TRAIN")
    torch.testing.assert_close(layer(torch.rand(1, 3)), torch.zeros(1, 3), atol=1e-4, rtol=0)
    assert layer.blobs[1].tolist() == [0, 0, 0]


def test_statistics_are_not_learned():
    layer = make_layer('type: "BatchNorm" param { lr_mult: 0 name: "m" }', (1, 3))
    assert [spec.lr_mult for spec in layer.param.param] == [0, 0, 0]
    assert layer.param.param[0].name == "m"
    with pytest.raises(CaffeError, match="lr_mult"):
        make_layer('type: "BatchNorm" param { lr_mult: 1 }', (1, 3))


def test_refusals():
    with pytest.raises(CaffeError, match="two axes"):
        make_layer('type: "BatchNorm"', (3,))
    with pytest.raises(CaffeError, match="3 channels"):
        make_layer('type: "BatchNorm"', (2, 3)).top_shapes([(2, 4)])
    with pytest.raises(CaffeError, match="no values"):
        make_layer('type: "BatchNorm"', (2, 3), phase="TRAIN")(torch.zeros(0, 3))
