"""Caffe's learning-rate policies."""

import math

import pytest

from caffe_bridge import schema, text_format
from caffe_bridge.errors import SolverError
from caffe_bridge.learning_rate import learning_rate


def solver(text):
    param = schema.SolverParameter()
    text_format.parse("base_lr: 0.5 max_iter: 100 " + text, param)
    return param


@pytest.mark.parametrize(
    ("text", "iteration", "rate"),
    [
        ('lr_policy: "fixed"', 70, 0.5),
        ('lr_policy: "step" gamma: 0.5 stepsize: 10', 9, 0.5),
        ('lr_policy: "step" gamma: 0.5 stepsize: 10', 35, 0.5**4),
        ('lr_policy: "exp" gamma: 0.5', 3, 0.5**4),
        ('lr_policy: "inv" gamma: 0.5 power: 2', 6, 0.5 / 16),
        ('lr_policy: "poly" power: 2', 40, 0.5 * 0.36),
        ('lr_policy: "sigmoid" gamma: 0.5 stepsize: 10', 14, 0.5 / (1 + math.exp(-2))),
    ],
)
def test_policies(text, iteration, rate):
    assert learning_rate(solver(text), iteration)[0] == pytest.approx(rate, rel=1e-6)


def test_multistep_takes_one_step_a_call():
    param = solver('lr_policy: "multistep" gamma: 0.5 stepvalue: 4 stepvalue: 6 stepvalue: 6')
    step, rates = 0, []
    for iteration in range(9):
        rate, step = learning_rate(param, iteration, step)
        rates.append(rate)
    assert rates == [0.5] * 4 + [0.25] * 2 + [0.125, 0.0625, 0.0625]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('lr_policy: "setp"', "lr_policy 'setp' is unknown"),
        ('lr_policy: "step" gamma: 0.1', "needs stepsize > 0"),
        ('lr_policy: "exp" gamma: -1', "needs gamma >= 0"),
    ],
)
def test_wrong_policies(text, message):
    with pytest.raises(SolverError, match=message):
        learning_rate(solver(text), 0)


def test_poly_ends_at_max_iter():
    assert learning_rate(solver('lr_policy: "poly" power: 0.5'), 100)[0] == 0
    with pytest.raises(SolverError, match="ends at max_iter 100"):
        learning_rate(solver('lr_policy: "poly" power: 0.5'), 101)


def test_poly_goes_on_beyond_max_iter_where_the_power_is_whole():
    assert learning_rate(solver('lr_policy: "poly" power: 2'), 150)[0] == pytest.approx(0.5 * 0.25)
    assert learning_rate(solver('lr_policy: "poly" power: 1'), 150)[0] == pytest.approx(-0.25)
    with pytest.raises(SolverError, match="has no rate"):
        learning_rate(solver('lr_policy: "poly" power: -1'), 100)
