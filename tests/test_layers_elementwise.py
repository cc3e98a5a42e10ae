"""Elementwise layers against recorded cases; their gradients at kinks, in place, and against finite differences."""

import math

import pytest
import torch
from layer_cases import cases, check_case, make_layer

import caffe_bridge
from caffe_bridge import CaffeError

TYPES = ["AbsVal", "BNLL", "Clip", "ELU", "Exp", "Log", "Swish", "Threshold"]


@pytest.mark.parametrize("name", cases(*TYPES))
def test_recorded(name):
    check_case(name)


def run(text, values, in_place=False):
    """Top and gradient for a top gradient of 3."""
    layer = make_layer(text + (' bottom: "x" top: "x"' if in_place else ""), (len(values),))
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    before = x.detach().clone()
    top = layer(x)
    assert torch.equal(x, before)
    top.backward(torch.full_like(top, 3))
    return top.detach(), x.grad / 3


@pytest.mark.parametrize(
    "text",
    [
        'type: "AbsVal"',
        'type: "BNLL"',
        'type: "Clip" clip_param { min: -1 max: 0.5 }',
        'type: "ELU" elu_param { alpha: 0.7 }',
        'type: "ELU" elu_param { alpha: -0.7 }',
        'type: "Exp" exp_param { base: 3 scale: 0.5 shift: -2 }',
        'type: "Exp"',
        'type: "Log" log_param { base: 0.3 scale: 0.5 shift: 4 }',
        'type: "Swish" swish_param { beta: 1.5 }',
        'type: "Swish"',
    ],
)
def test_gradient_is_the_derivative(text):
    layer = make_layer(text, (2, 5))
    assert torch.autograd.gradcheck(layer, (torch.randn(2, 5, dtype=torch.float64, requires_grad=True),))


def test_gradients_at_kinks():
    assert run('type: "AbsVal"', [-2.0, 0, 2])[1].tolist() == [-1, 0, 1]
    assert run('type: "ELU" elu_param { alpha: 0.25 }', [0.0, 1])[1].tolist() == [0.25, 1]
    top, gradient = run('type: "Clip" clip_param { min: -1 max: 2 }', [-1.5, -1, 0, 2, 2.5])
    assert top.tolist() == [-1, -1, 0, 2, 2] and gradient.tolist() == [0, 1, 1, 1, 0]


def test_clip_between_contradicting_limits_is_the_lower_without_gradient():
    layer = make_layer('type: "Clip" clip_param { min: 2 max: -2 }', (3,))
    top = layer(torch.tensor([-5.0, 0, 5], requires_grad=True))
    assert top.tolist() == [2, 2, 2] and not top.requires_grad


def test_bnll_does_not_overflow():
    top, gradient = run('type: "BNLL"', [-800.0, 800])
    assert top.tolist() == [0, 800] and gradient.tolist() == [0, 1]


def test_gradients_in_place_read_the_top():
    values = [-1.0, 0.5, 3]
    for text, slope in {
        'type: "BNLL"': torch.sigmoid,
        'type: "Clip" clip_param { min: 0 max: 1 }': torch.ones_like,
        'type: "ELU" elu_param { alpha: 2 }': lambda top: torch.where(top > 0, 1, top + 2),
        'type: "ELU" elu_param { alpha: -2 }': lambda top: torch.where(top > 0, 1, top - 2),
        'type: "Exp" exp_param { scale: 2 }': lambda top: 2 * top,
        'type: "Log" log_param { scale: 2 shift: 4 }': lambda top: (2 / (2 * top + 4)).square() / 3,
    }.items():
        top, gradient = run(text, values, in_place=True)
        torch.testing.assert_close(top, run(text, values)[0])
        torch.testing.assert_close(gradient, slope(top), msg=text)


def test_in_place_through_a_net_in_both_faces():
    text = """
    force_backward: true
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 } } }
    layer { name: "scale" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }
    layer { name: "clip" type: "Clip" bottom: "y" top: "y" clip_param { min: 0 max: 1 } loss_weight: 1 }
    """
    x = torch.tensor([-1.0, 0.25, 3], requires_grad=True)
    out = caffe_bridge.Net(text, phase="TRAIN")(x=x)["y"]
    out.sum().backward()
    assert out.tolist() == [0, 0.5, 1] and x.grad.tolist() == [2, 2, 2]


def test_log_and_exp_by_the_formula():
    x = torch.tensor([0.5, 2], dtype=torch.float64)
    exp = make_layer('type: "Exp" exp_param { base: 2 scale: 3 shift: -1 }', (2,))
    log = make_layer('type: "Log" log_param { base: 2 scale: 3 shift: -1 }', (2,))
    torch.testing.assert_close(exp(x), 2 ** (3 * x - 1))
    torch.testing.assert_close(log(x), torch.log2(3 * x - 1))
    assert make_layer('type: "Exp" exp_param { shift: 1000 }', (1,))(torch.zeros(1)).item() == math.inf


@pytest.mark.parametrize(
    "text",
    [
        'type: "Exp" exp_param { base: 0 }',
        'type: "Exp" exp_param { base: -2 }',
        'type: "Exp" exp_param { base: inf }',
        'type: "Log" log_param { base: 1 }',
        'type: "Log" log_param { base: nan }',
        'type: "AbsVal" bottom: "x" top: "x"',
    ],
)
def test_refusals(text):
    with pytest.raises(CaffeError):
        make_layer(text, (2,))


def test_threshold_is_strict_and_has_no_gradient():
    layer = make_layer('type: "Threshold" threshold_param { threshold: 0.5 }', (3,))
    top = layer(torch.tensor([0.4, 0.5, 0.6], requires_grad=True))
    assert top.tolist() == [0, 0, 1] and not top.requires_grad and not layer.allow_force_backward(0)


@pytest.mark.parametrize("type_", TYPES)
def test_exports(type_):
    layer = make_layer(f'type: "{type_}" clip_param {{ min: 0 max: 1 }}', (2, 3))
    x = torch.rand(2, 3) + 0.1
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))
