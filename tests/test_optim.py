"""Caffe's update rules as torch optimizers, against the equations written out in NumPy."""

import numpy as np
import pytest
import torch

from caffe_bridge import optim
from caffe_bridge.errors import SolverError

LR, MOMENTUM, DELTA = 0.1, 0.9, 1e-3


def numpy_rule(name):
    """One step: (gradient, state dict, t) -> update, all float64."""

    def sgd(g, s, t):
        s["h"] = MOMENTUM * s.get("h", 0) + LR * g
        return s["h"]

    def nesterov(g, s, t):
        old = s.get("h", 0)
        return (1 + MOMENTUM) * sgd(g, s, t) - MOMENTUM * old

    def adagrad(g, s, t):
        s["h"] = s.get("h", 0) + g**2
        return LR * g / (np.sqrt(s["h"]) + DELTA)

    def rmsprop(g, s, t):
        s["h"] = 0.98 * s.get("h", 0) + 0.02 * g**2
        return LR * g / (np.sqrt(s["h"]) + DELTA)

    def adadelta(g, s, t):
        s["h"] = MOMENTUM * s.get("h", 0) + (1 - MOMENTUM) * g**2
        u = g * np.sqrt((s.get("u", 0) + DELTA) / (s["h"] + DELTA))
        s["u"] = MOMENTUM * s.get("u", 0) + (1 - MOMENTUM) * u**2
        return LR * u

    def adam(g, s, t):
        s["m"] = MOMENTUM * s.get("m", 0) + (1 - MOMENTUM) * g
        s["v"] = 0.999 * s.get("v", 0) + 0.001 * g**2
        correction = np.sqrt(1 - 0.999**t) / (1 - MOMENTUM**t)
        return LR * correction * s["m"] / (np.sqrt(s["v"]) + DELTA)

    return locals()[name.lower()]


OPTIONS = {
    "SGD": {"momentum": MOMENTUM},
    "Nesterov": {"momentum": MOMENTUM},
    "AdaGrad": {"delta": DELTA},
    "RMSProp": {"rms_decay": 0.98, "delta": DELTA},
    "AdaDelta": {"momentum": MOMENTUM, "delta": DELTA},
    "Adam": {"momentum": MOMENTUM, "delta": DELTA},
}


@pytest.mark.parametrize("regularization", ["L2", "L1"])
@pytest.mark.parametrize("name", OPTIONS)
def test_rules_follow_caffes_equations(name, regularization):
    rng = np.random.RandomState(1)
    start = rng.randn(3, 4)
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    groups = [{"params": [parameter], "lr_mult": 2.0, "decay_mult": 0.5}]
    rule = optim.RULES[name]
    optimizer = rule(groups, lr=LR / 2, weight_decay=0.02, regularization=regularization, **OPTIONS[name])
    expected, state, step = start.copy(), {}, numpy_rule(name)
    for t in range(1, 6):
        gradient = rng.randn(3, 4)
        parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
        penalty = np.sign(expected) if regularization == "L1" else expected
        update = step(gradient + 0.01 * penalty, state, t)
        expected = expected - update
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(parameter.grad.numpy(), update, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OPTIONS)
def test_state_dicts_continue_the_same_run(name):
    def run(split):
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.randn(5))
        optimizer = optim.RULES[name]([parameter], lr=LR, **OPTIONS[name])
        for t in range(6):
            if t == split:
                saved = optimizer.state_dict()
                optimizer = optim.RULES[name]([parameter], lr=LR, **OPTIONS[name])
                optimizer.load_state_dict(saved)
            parameter.grad = torch.randn(5)
            optimizer.step()
        return parameter

    assert torch.equal(run(None), run(3))


def test_parameters_without_gradient_are_left_alone():
    used, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = optim.SGD([used, unused], lr=LR, weight_decay=0.5)
    used.grad = torch.ones(2)
    assert float(optimizer.step(lambda: torch.tensor(3.0))) == 3
    assert (unused == 1).all() and torch.allclose(used, torch.tensor(1 - LR * 1.5))


def test_unknown_regularization_is_refused():
    with pytest.raises(SolverError, match="regularization is L2 or L1, not 'L3'"):
        optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=LR, regularization="L3")


def test_gradients_are_clipped_by_their_joint_norm():
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    assert optim.clip_gradients(gradients, 10) == 5 and gradients[1].item() == 4
    assert optim.clip_gradients(gradients, 1) == 5
    torch.testing.assert_close(torch.cat([g.flatten() for g in gradients]), torch.tensor([0.6, 0.0, 0.8]))
