import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("SmoothL1Loss", folder="forks"))
def test_recorded(name):
    check_case(name)


def rfcn_by_loops(x, t, w):
    d = w * (x - t)
    errors = np.where(np.abs(d) < 1, d * d / 2, np.abs(d) - 0.5)
    return errors, np.clip(d, -1, 1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(3, 8), (2, 4, 3, 2)])
@pytest.mark.parametrize(
    ("fields", "divisor"),
    [
        ("normalization: FULL", lambda n, cells: n * cells),
        ("normalization: VALID", lambda n, cells: n * cells),
        ("normalize: false", lambda n, cells: n),
        ("normalization: BATCH_SIZE", lambda n, cells: n),
        ("normalization: PRE_FIXED pre_fixed_normalizer: 12.5", lambda n, cells: 12.5),
        ("normalization: PRE_FIXED pre_fixed_normalizer: 0.5", lambda n, cells: 1),
        ("normalization: NONE", lambda n, cells: 1),
    ],
)
def test_rfcn(fields, divisor, shape, weighted):
    shapes = [shape] * (3 if weighted else 2)
    layer = make_layer(f'type: "SmoothL1Loss" top: "l" top: "each" loss_param {{ {fields} }}', *shapes)
    x, t = (torch.randn(shape, dtype=torch.float64) * 2 for _ in range(2))
    w = torch.randint(0, 2, shape).double() * 0.5 if weighted else torch.ones(shape, dtype=torch.float64)
    errors, slope = rfcn_by_loops(x.numpy(), t.numpy(), w.numpy())
    cells = int(np.prod(shape[2:]))
    by = divisor(shape[0], cells)
    loss, each = layer(x.requires_grad_(), t.requires_grad_(), *([w] if weighted else []))
    assert [tuple(loss.shape), tuple(each.shape)] == layer.top_shapes(shapes)
    assert loss.item() == pytest.approx(errors.sum() / by)
    np.testing.assert_allclose(each.flatten(1).numpy(), errors.sum(1).reshape(shape[0], -1))
    (loss * 3).backward()
    np.testing.assert_allclose(x.grad.numpy(), 3 * slope / by)
    np.testing.assert_allclose(t.grad.numpy(), -3 * slope / by)


def test_three_bottoms_are_rfcns_four_fast_rcnns():
    x, t, w = torch.randn(3, 4), torch.randn(3, 4), torch.ones(3, 4)
    rfcn = make_layer('type: "SmoothL1Loss"', (3, 4), (3, 4), (3, 4))(x, t, w)
    fast = make_layer('type: "SmoothL1Loss" loss_param { normalization: NONE }', *[(3, 4)] * 4)(x, t, w, w)
    torch.testing.assert_close(rfcn, fast)


def test_refuses():
    with pytest.raises(CaffeError, match="second top"):
        make_layer('type: "SmoothL1Loss" top: "a" top: "b"', *[(3, 4)] * 4)
    with pytest.raises(CaffeError, match="one size"):
        make_layer('type: "SmoothL1Loss"', (3, 4), (3, 4), (3, 5)).top_shapes([(3, 4), (3, 4), (3, 5)])
