"""Caffe's fillers: distributions, fans, shapes they refuse; the generators they draw from."""

import math

import numpy as np
import pytest
import torch

from caffe_bridge import CaffeError, fillers, randomness, schema, text_format


def filled(text, shape, seed=None):
    param = schema.FillerParameter()
    text_format.parse(text, param)
    tensor = torch.full(shape, math.nan)
    fillers.fill(tensor, param, None if seed is None else torch.Generator().manual_seed(seed))
    return tensor


def test_constant_is_the_default():
    assert not filled("", (2, 3)).any()
    assert filled('type: "constant" value: 2.5', ()).item() == 2.5
    tensor = torch.ones(3)
    fillers.fill(tensor, None)
    assert not tensor.any()


def test_uniform_and_gaussian():
    uniform = filled('type: "uniform" min: -2 max: 6', (100, 200))
    assert uniform.min() >= -2 and uniform.max() <= 6
    assert uniform.mean().item() == pytest.approx(2, abs=0.1)
    gaussian = filled('type: "gaussian" mean: 3 std: 0.5', (100, 200))
    assert (gaussian.mean().item(), gaussian.std().item()) == pytest.approx((3, 0.5), abs=0.02)


def test_sparse_keeps_that_many_of_the_outputs():
    values = filled('type: "gaussian" std: 1 sparse: 5', (50, 400))
    assert (values != 0).sum(0).float().mean().item() == pytest.approx(5, abs=0.5)


def test_positive_unitball_rows_sum_to_one():
    values = filled('type: "positive_unitball"', (4, 3, 2))
    assert (values >= 0).all()
    torch.testing.assert_close(values.sum((1, 2)), torch.ones(4))


@pytest.mark.parametrize(("norm", "n"), [("FAN_IN", 50), ("FAN_OUT", 2000), ("AVERAGE", 1025)])
def test_xavier_and_msra_fans(norm, n):
    shape = (400, 10, 5, 1)
    xavier = filled(f'type: "xavier" variance_norm: {norm}', shape)
    assert xavier.abs().max().item() == pytest.approx(math.sqrt(3 / n), rel=0.01)
    assert xavier.std().item() == pytest.approx(math.sqrt(1 / n), rel=0.05)
    assert filled(f'type: "msra" variance_norm: {norm}', shape).std().item() == pytest.approx(
        math.sqrt(2 / n), rel=0.05
    )


def test_one_axis_has_its_count_as_fan_out():
    values = filled('type: "xavier" variance_norm: FAN_OUT', (3000,))
    assert values.abs().max().item() == pytest.approx(math.sqrt(3 / 3000), rel=0.01)


@pytest.mark.parametrize(
    ("size", "line"), [(4, [0.25, 0.75, 0.75, 0.25]), (3, [0.5, 1, 0.5]), (1, [1]), (2, [0.5 + 0.25, 0.75])]
)
def test_bilinear(size, line):
    values = filled('type: "bilinear"', (2, 3, size, size))
    if size != 2:
        np.testing.assert_allclose(values[1, 2].numpy(), np.outer(line, line), rtol=1e-6)
    assert torch.equal(values, values[:1, :1].expand_as(values))


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ('type: "bilinear"', (2, 2, 3)),
        ('type: "bilinear"', (1, 1, 3, 4)),
        ('type: "constant"', (0, 3)),
        ('type: "constant" sparse: 1', (3,)),
        ('type: "gaussian" sparse: -2', (3,)),
        ('type: "gaussian" sparse: 4', (3,)),
        ('type: "gaussian" std: 0', (3,)),
        ('type: "uniform" min: 1 max: 0', (3,)),
        ('type: "xavier"', ()),
        ('type: "positive_unitball"', ()),
    ],
)
def test_refuses_what_caffe_refuses(text, shape):
    with pytest.raises(CaffeError):
        filled(text, shape)


def test_unknown_filler_names_its_neighbours():
    with pytest.raises(CaffeError, match="'gausian'.*gaussian"):
        filled('type: "gausian"', (3,))


def test_seeds_repeat_and_leave_other_generators_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    randomness.seed(7)
    first = filled('type: "gaussian"', (10,))
    saved = randomness.state()
    second = filled('type: "gaussian"', (10,))
    randomness.seed(7)
    assert torch.equal(filled('type: "gaussian"', (10,)), first)
    randomness.seed(8)
    assert not torch.equal(filled('type: "gaussian"', (10,)), first)
    randomness.set_state(saved)
    assert torch.equal(filled('type: "gaussian"', (10,)), second)
    assert torch.equal(torch.get_rng_state(), before[0]) and (np.random.get_state()[1] == before[1]).all()
    assert torch.equal(filled('type: "uniform"', (3,), seed=1), filled('type: "uniform"', (3,), seed=1))


def test_fills_leaves_that_require_grad_and_other_dtypes():
    tensor = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    fillers.fill(tensor, schema.FillerParameter(type="xavier"))
    assert tensor.is_leaf and tensor.any()
