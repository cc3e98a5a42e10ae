import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("ContrastiveLoss"))
def test_recorded(name):
    check_case(name)


def loss_by_loops(first, second, labels, margin, legacy):
    """Loss, and the gradient of the first bottom, of float64 arrays (num, channels)."""
    loss, gradient = 0.0, np.zeros_like(first)
    for n, difference in enumerate(first - second):
        squared = (difference**2).sum()
        lack = margin - (squared if legacy else np.sqrt(squared))
        if int(labels[n]):
            loss, gradient[n] = loss + squared, difference
        elif lack > 0:
            loss += lack if legacy else lack**2
            gradient[n] = -difference if legacy else -difference * lack / (np.sqrt(squared) + 1e-4)
    return loss / 2 / len(first), gradient / len(first)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("margin", [0.5, 3, 100])
def test_loss_and_gradients_by_loops(legacy, margin):
    text = f"""type: "ContrastiveLoss"
               contrastive_loss_param {{ margin: {margin} legacy_version: {str(legacy).lower()} }}"""
    shapes = [(8, 3), (8, 3, 1, 1), (8, 1)]
    layer = make_layer(text, *shapes)
    assert layer.top_shapes(shapes) == [()]
    first, second = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes[:2])
    with torch.no_grad():
        second[:2] = first[:2, :, None, None]
    labels = torch.tensor([0.0, 1, 0.9, -0.4, 1.5, 0, -1, 0])
    loss = layer(first, second, labels.reshape(8, 1))
    loss.backward(torch.tensor(2.0, dtype=torch.float64))
    arrays = (first.detach().numpy(), second.detach().numpy().reshape(8, 3))
    wanted, gradient = loss_by_loops(*arrays, labels.numpy(), margin, legacy)
    assert loss.item() == pytest.approx(wanted)
    np.testing.assert_allclose(first.grad.numpy(), 2 * gradient, atol=1e-12)
    np.testing.assert_allclose(second.grad.numpy().reshape(8, 3), -2 * gradient, atol=1e-12)


@pytest.mark.parametrize(
    "shapes",
    [[(4, 3), (4, 2), (4,)], [(4, 3), (5, 3), (4,)], [(4, 3, 2), (4, 3, 2), (4,)], [(4, 3), (4, 3), (4, 2)]],
)
def test_refusals(shapes):
    with pytest.raises(CaffeError):
        make_layer('type: "ContrastiveLoss"', *shapes).top_shapes(shapes)
