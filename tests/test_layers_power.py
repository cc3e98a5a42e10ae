"""Power against recorded cases; the places where Caffe's gradient is not the derivative."""

import math

import pytest
import torch
from layer_cases import cases, check_case, make_layer


@pytest.mark.parametrize("name", cases("Power"))
def test_recorded(name):
    check_case(name)


def run(fields, values, extra=""):
    layer = make_layer(f'type: "Power" {extra} power_param {{ {fields} }}', (len(values),))
    x = torch.tensor(values, requires_grad=True)
    top = layer(x)
    if top.requires_grad:
        top.sum().backward()
    return top.tolist(), None if x.grad is None else x.grad.tolist()


@pytest.mark.parametrize(
    ("fields", "value"),
    [("power: 0", 1), ("scale: 0 shift: 3 power: 2", 9), ("power: 0 shift: 0", 1), ("scale: 0 power: -1", math.inf)],
)
def test_constants_have_no_gradient(fields, value):
    assert run(fields, [0.0, 5.0]) == ([value, value], None)


@pytest.mark.parametrize(
    ("fields", "gradient"),
    [
        ("power: 2", 0),
        ("power: 1", 1),
        ("power: 3", math.nan),
        ("power: 0.5", math.nan),
        ("power: 3 shift: 0", math.nan),
    ],
)
def test_gradient_at_zero(fields, gradient):
    _, (got, _) = run(fields, [0.0, 1.0])
    assert got == gradient or math.isnan(got) and math.isnan(gradient)


def test_negative_base():
    top, grad = run("power: 3 scale: 2 shift: -1", [-1.0])
    assert top == [-27] and grad == [pytest.approx(54)]
    assert math.isnan(run("power: 0.5", [-1.0])[0][0])


@pytest.mark.parametrize(
    ("fields", "bottom", "top", "gradient"),
    [
        ("scale: 3", 2.0, 6, 9),
        ("power: 2", 3.0, 9, 18**2),
        ("power: 3", 2.0, 8, 3**2),
        ("power: 3 shift: 1", 1.0, 8, pytest.approx((3 * 8 / 9) ** 2)),
    ],
)
def test_in_place_gradient_is_the_slope_at_the_top_squared(fields, bottom, top, gradient):
    assert run(fields, [bottom], 'bottom: "x" top: "x"') == ([top], [gradient])
