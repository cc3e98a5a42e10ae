import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("Accuracy"))
def test_recorded(name):
    check_case(name)


def test_ties_count_against():
    layer = make_layer('type: "Accuracy"', (3, 2), (3,))
    scores = torch.tensor([[1.0, 1], [2, 1], [float("nan"), 1]])
    assert layer(scores, torch.zeros(3)).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("axis", [1, -1])
def test_per_class_and_top_k(axis):
    shape, positions = ((4, 5, 3), (4, 3)) if axis == 1 else ((4, 3, 5), (4, 3))
    text = f'type: "Accuracy" top: "a" top: "b" accuracy_param {{ axis: {axis} top_k: 2 ignore_label: 3 }}'
    layer = make_layer(text, shape, positions)
    assert layer.top_shapes([shape, positions]) == [(), (5,)]
    scores, labels = torch.rand(shape), torch.randint(0, 4, positions).float()
    share, per_class = layer(scores, labels)
    ranks = np.moveaxis(scores.numpy(), axis, -1).argsort(-1)[..., -2:]
    hit = (ranks == labels.numpy()[..., None]).any(-1)
    kept = labels.numpy() != 3
    assert share.item() == pytest.approx(hit[kept].mean())
    wanted = [hit[labels.numpy() == c].mean() if c != 3 and (labels == c).any() else 0 for c in range(5)]
    np.testing.assert_allclose(per_class.numpy(), wanted, rtol=1e-6)


def test_nothing_counted_is_zero():
    layer = make_layer('type: "Accuracy" accuracy_param { ignore_label: 0 }', (2, 3), (2,))
    assert layer(torch.rand(2, 3), torch.zeros(2)) == 0


def test_refusals():
    with pytest.raises(CaffeError, match="top_k"):
        make_layer('type: "Accuracy" accuracy_param { top_k: 4 }', (2, 3), (2,)).top_shapes([(2, 3), (2,)])
    with pytest.raises(CaffeError, match="labels"):
        make_layer('type: "Accuracy"', (2, 3), (3,)).top_shapes([(2, 3), (3,)])
    with pytest.raises(CaffeError, match="label 3"):
        make_layer('type: "Accuracy"', (1, 3), (1,))(torch.rand(1, 3), torch.tensor([3.0]))
