import copy

import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError, pycaffe
from caffe_bridge.layers.bn import PSPNetBN, SegNetBN

FILLED = 'slope_filler { type: "constant" value: 1 }'


@pytest.mark.parametrize("name", cases("BN_PSPNet", "BN_SegNet", folder="forks"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize(
    ("fields", "cls", "blobs"),
    [
        ("", PSPNetBN, 4),
        (FILLED + " momentum: 0.5", PSPNetBN, 4),
        ("frozen: true", PSPNetBN, 4),
        ("bn_mode: LEARN", SegNetBN, 2),
        ("shift_filler { value: 1 }", SegNetBN, 2),
        ("scale_filler { value: 1 }", SegNetBN, 2),
    ],
)
def test_the_fields_tell_whose_it_is(fields, cls, blobs):
    layer = make_layer(f'type: "BN" bn_param {{ {fields} }}', (2, 3, 4, 4))
    assert type(layer) is cls and [tuple(blob.shape) for blob in layer.blobs] == [(1, 3, 1, 1)] * blobs
    copied = copy.deepcopy(layer)
    assert type(copied) is cls and copied(torch.rand(2, 3, 4, 4)).shape == (2, 3, 4, 4)


def test_pspnet_defaults():
    layer = make_layer('type: "BN"', (2, 3, 4, 4))
    assert [blob.unique().tolist() for blob in layer.blobs] == [[0]] * 4
    layer = make_layer('type: "BN" bn_param { frozen: true }', (2, 3, 4, 4))
    assert [blob.unique().tolist() for blob in layer.blobs] == [[0], [0], [0], [1]]
    assert [(spec.lr_mult, spec.decay_mult) for spec in layer.param.param] == [(0, 0)] * 4


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 2, 2), (1, 3)])
def test_pspnet_running_statistics(shape):
    layer = make_layer(f'type: "BN" bn_param {{ {FILLED} momentum: 0.75 }}', shape, phase="TRAIN")
    x = torch.rand(shape)
    top = layer(x)
    axes = [0, *range(2, len(shape))]
    mean, variance = x.mean(axes), x.var(axes, unbiased=False)
    torch.testing.assert_close(layer.blobs[2].flatten(), 0.25 * mean)
    torch.testing.assert_close(layer.blobs[3].flatten(), 0.25 * variance)
    spread = (1, 3, *[1] * (len(shape) - 2))
    wanted = (x - mean.view(spread)) / (variance.view(spread) + 1e-5).sqrt()
    torch.testing.assert_close(top, wanted, rtol=1e-4, atol=1e-5)


def test_pspnet_gradient_with_running_statistics_is_that_of_a_batch():
    layer = make_layer(f'type: "BN" bn_param {{ {FILLED} }}', (3, 2, 2, 2)).double()
    with torch.no_grad():
        layer.blobs[2].normal_()
        layer.blobs[3].uniform_(0.5, 2)
        layer.blobs[0].normal_()
    x = torch.rand(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    grad = torch.rand(3, 2, 2, 2, dtype=torch.float64)
    layer(x).backward(grad)
    slope, _, mean, variance = (blob.detach() for blob in layer.blobs)
    inv = 1 / (variance + 1e-5).sqrt()
    normalised, g = (x.detach() - mean) * inv, slope * grad
    by_channel = {"dim": (0, 2, 3), "keepdim": True}
    wanted = (g - g.mean(**by_channel) - normalised * (g * normalised).mean(**by_channel)) * inv
    torch.testing.assert_close(x.grad, wanted)
    torch.testing.assert_close(layer.blobs[0].grad, (grad * normalised).sum(**by_channel))
    torch.testing.assert_close(layer.blobs[1].grad, grad.sum(**by_channel))


@pytest.mark.parametrize("fields", [FILLED, "bn_mode: LEARN scale_filler { value: 2 }", "bn_mode: INFERENCE"])
def test_gradients_are_derivatives(fields):
    layer = make_layer(f'type: "BN" bn_param {{ {fields} }}', (3, 2, 2, 2), phase="TRAIN").double()
    x = torch.rand(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, layer.blobs[0], layer.blobs[1]))


def test_frozen_is_an_affine_map():
    layer = make_layer(f'type: "BN" bn_param {{ {FILLED} frozen: true }}', (3, 2, 2, 2), phase="TRAIN").double()
    x = torch.rand(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    layer(x).sum().backward()
    assert layer.blobs[0].grad is None and not layer.blobs[2].any()


def test_segnet_ignores_the_phase_and_names_its_statistics():
    text = 'type: "BN" top: "y" top: "m" top: "v" bn_param { bn_mode: LEARN scale_filler { value: 1 } }'
    x = torch.rand(3, 2, 4)
    for phase in ("TRAIN", "TEST"):
        layer = make_layer(text, (3, 2, 4), phase=phase)
        top, mean, variance = layer(x.requires_grad_())
        assert [top.shape, mean.shape, variance.shape] == [torch.Size(s) for s in layer.top_shapes([(3, 2, 4)])]
        torch.testing.assert_close(mean.flatten(), x.mean((0, 2)).detach())
        torch.testing.assert_close(variance.flatten(), x.var((0, 2), unbiased=False).detach())
        assert not mean.requires_grad and not variance.requires_grad


def test_segnet_in_place_inference_sees_its_own_top():
    fields = "bn_mode: INFERENCE scale_filler { value: 3 } shift_filler { value: 1 }"
    layer = make_layer(f'type: "BN" bottom: "x" top: "x" bn_param {{ {fields} }}', (2, 1, 2, 2))
    x = torch.rand(2, 1, 2, 2, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(layer.blobs[0].grad.sum(), (3 * x + 1).sum())
    assert (x.grad == 3).all() and layer.blobs[1].grad.item() == 8


@pytest.mark.parametrize(("fields", "passes"), [("bn_mode: LEARN scale_filler { value: 1 }", 1), (FILLED, 2)])
def test_only_segnets_sets_the_diffs_of_its_parameters(tmp_path, fields, passes):
    path = tmp_path / "net.prototxt"
    path.write_text(
        'force_backward: true layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 2 } } } '
        f'layer {{ name: "bn" type: "BN" bottom: "x" top: "y" bn_param {{ {fields} }} }}'
    )
    net = pycaffe.Net(str(path), pycaffe.TRAIN)
    net.blobs["y"].diff[...] = 1
    for _ in range(2):
        net.forward()
        net.backward()
    np.testing.assert_allclose(net.params["bn"][1].diff.ravel(), 3 * passes)


def test_refuses():
    with pytest.raises(CaffeError, match="axes"):
        make_layer('type: "BN"', (3,))
    with pytest.raises(CaffeError, match="LEARN"):
        make_layer('type: "BN" top: "y" top: "m" bn_param { bn_mode: INFERENCE }', (2, 3))
    with pytest.raises(CaffeError, match="top"):
        make_layer('type: "BN" top: "y" top: "m"', (2, 3))
    layer = make_layer('type: "BN"', (2, 3), phase="TRAIN")
    with pytest.raises(CaffeError, match="3 channels"):
        layer.top_shapes([(2, 4)])
    with pytest.raises(CaffeError, match="no values"):
        layer(torch.zeros(0, 3))
