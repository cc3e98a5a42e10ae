import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("MultinomialLogisticLoss"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("shape", [(4, 3), (2, 2, 3, 1)])
def test_loss_and_gradient(shape):
    layer = make_layer('type: "MultinomialLogisticLoss"', shape, (shape[0],))
    prob = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (shape[0],)).double()
    picked = prob.detach().numpy().reshape(shape[0], -1)[np.arange(shape[0]), labels.numpy().astype(int)]
    loss = layer(prob, labels)
    assert loss.shape == () and loss.item() == pytest.approx(-np.log(picked).mean())
    assert torch.autograd.gradcheck(layer, (prob, labels))


def test_impossible_labels_count_as_1e_20_and_keep_their_gradient():
    layer = make_layer('type: "MultinomialLogisticLoss"', (2, 2), (2,))
    prob = torch.tensor([[0.0, 1], [-3, 1]], requires_grad=True)
    loss = layer(prob, torch.zeros(2))
    loss.backward()
    assert loss.item() == pytest.approx(-np.log(1e-20))
    np.testing.assert_allclose(prob.grad.numpy(), [[-0.5e20, 0], [-0.5e20, 0]], rtol=1e-6)


def test_refusals():
    layer = make_layer('type: "MultinomialLogisticLoss"', (2, 3), (2,))
    for labels in [(3,), (2, 2)]:
        with pytest.raises(CaffeError):
            layer.top_shapes([(2, 3), labels])
    with pytest.raises(CaffeError, match="label -1"):
        layer(torch.rand(2, 3), torch.tensor([0.0, -1]))
