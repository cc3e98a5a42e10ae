import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("HingeLoss"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("norm", ["L1", "L2"])
@pytest.mark.parametrize("shape", [(5, 4), (3, 2, 2, 1)])
def test_loss_and_gradient_by_loops(norm, shape):
    layer = make_layer(f'type: "HingeLoss" hinge_loss_param {{ norm: {norm} }}', shape, (shape[0], 1))
    scores = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (shape[0], 1)) + 0.3
    layer(scores, labels).backward(torch.tensor(2.0, dtype=torch.float64))
    flat = scores.detach().numpy().reshape(shape[0], -1)
    loss, gradient = 0.0, np.zeros_like(flat)
    for n, row in enumerate(flat):
        for k, score in enumerate(row):
            sign = -1 if k == int(labels[n, 0]) else 1
            lack = max(0.0, 1 + sign * score)
            loss += lack if norm == "L1" else lack**2
            gradient[n, k] = sign * (float(lack > 0) if norm == "L1" else 2 * lack)
    assert layer(scores, labels).item() == pytest.approx(loss / shape[0])
    np.testing.assert_allclose(scores.grad.numpy().reshape(flat.shape), 2 * gradient / shape[0], atol=1e-12)


def test_a_margin_just_met_has_no_gradient():
    layer = make_layer('type: "HingeLoss"', (1, 2), (1,))
    scores = torch.tensor([[1.0, -1]], requires_grad=True)
    layer(scores, torch.zeros(1)).backward()
    assert scores.grad.tolist() == [[0, 0]]


def test_refusals():
    layer = make_layer('type: "HingeLoss"', (2, 3), (2,))
    for labels in [(3,), (2, 2)]:
        with pytest.raises(CaffeError):
            layer.top_shapes([(2, 3), labels])
    with pytest.raises(CaffeError, match="label 3"):
        layer(torch.zeros(2, 3), torch.tensor([0.0, 3]))
