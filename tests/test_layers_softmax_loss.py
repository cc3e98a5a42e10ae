"""SoftmaxWithLoss against recorded cases and Caffe's loops in NumPy; labels that are not classes."""

import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError, LayerError


@pytest.mark.parametrize("name", cases("SoftmaxWithLoss"))
def test_recorded(name):
    check_case(name)


def loss_by_loops(scores, labels, axis, ignored, mode):
    """Loss and gradient of float64 scores."""
    moved = np.moveaxis(scores, axis, -1)
    prob = np.exp(moved - moved.max(-1, keepdims=True))
    prob /= prob.sum(-1, keepdims=True)
    labels = np.trunc(labels).astype(int).reshape(prob.shape[:-1])
    loss, count, gradient = 0.0, 0, np.zeros_like(prob)
    for place in np.ndindex(*labels.shape):
        if labels[place] == ignored:
            continue
        loss -= np.log(max(prob[(*place, labels[place])], np.finfo(np.float32).tiny))
        gradient[place] = prob[place]
        gradient[(*place, labels[place])] -= 1
        count += 1
    outer = int(np.prod(scores.shape[:axis]))
    divisor = {"FULL": labels.size, "VALID": count, "BATCH_SIZE": outer, "NONE": 1}[mode]
    return loss / max(1, divisor), np.moveaxis(gradient, -1, axis) / max(1, divisor)


@pytest.mark.parametrize("mode", ["FULL", "VALID", "BATCH_SIZE", "NONE"])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3), 1), ((2, 3, 4, 2), 1), ((2, 3, 4), -1), ((3, 5), 0)])
@pytest.mark.parametrize("ignored", [None, 1])
def test_every_axis_and_normalisation(mode, shape, axis, ignored):
    ignore = "" if ignored is None else f"ignore_label: {ignored}"
    positions = (shape[0], int(np.prod(shape)) // shape[axis] // shape[0]) if axis != 0 else (3, 0)
    if axis == 0:
        shape, positions = (4, 4), (4,)
    text = f'type: "SoftmaxWithLoss" softmax_param {{ axis: {axis} }} loss_param {{ normalization: {mode} {ignore} }}'
    layer = make_layer(text, shape, positions)
    assert layer.top_shapes([shape, positions]) == [()]
    scores = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, shape[axis], positions) + 0.6
    loss = layer(scores, labels)
    loss.backward(torch.tensor(2.5, dtype=torch.float64))
    wanted, gradient = loss_by_loops(scores.detach().numpy(), labels.numpy(), axis % len(shape), ignored, mode)
    assert loss.item() == pytest.approx(wanted)
    np.testing.assert_allclose(scores.grad.numpy(), gradient * 2.5, atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "divisor"),
    [("normalize: true", 3), ("normalize: false", 2), ("normalize: false normalization: NONE", 1)],
)
def test_older_normalize_field(fields, divisor):
    layer = make_layer(f'type: "SoftmaxWithLoss" loss_param {{ ignore_label: 0 {fields} }}', (2, 2, 2), (2, 2))
    loss = layer(torch.zeros(2, 2, 2), torch.tensor([[0.0, 1], [1, 1]]))
    assert loss.item() == pytest.approx(3 * np.log(2) / divisor)


@pytest.mark.parametrize("mode", ["FULL", "VALID", "BATCH_SIZE", "NONE"])
def test_nothing_to_learn_from_is_no_loss(mode):
    layer = make_layer(f'type: "SoftmaxWithLoss" loss_param {{ ignore_label: -1 normalization: {mode} }}', (2, 3), (2,))
    scores = torch.rand(2, 3, requires_grad=True)
    loss = layer(scores, torch.tensor([-1.0, -1]))
    loss.backward()
    assert loss == 0 and not loss.signbit() and not scores.grad.any()
    assert layer(torch.zeros(0, 3), torch.zeros(0)) == 0


@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "SigmoidCrossEntropyLoss", "InfogainLoss"])
def test_a_fixed_divisor_is_refused(kind):
    with pytest.raises(LayerError, match="PRE_FIXED is not this loss's"):
        make_layer(f'type: "{kind}" loss_param {{ normalization: PRE_FIXED }}', (2, 3), (2, 3))


def test_clamped_loss_keeps_its_gradient():
    layer = make_layer('type: "SoftmaxWithLoss"', (1, 2), (1,))
    scores = torch.tensor([[300.0, 0]], requires_grad=True)
    loss = layer(scores, torch.tensor([1.0]))
    loss.backward()
    assert loss.item() == pytest.approx(-np.log(np.finfo(np.float32).tiny))
    assert scores.grad.tolist() == [[1, -1]]


def test_second_top_is_the_probability_without_gradient():
    layer = make_layer('type: "SoftmaxWithLoss" top: "loss" top: "prob"', (2, 3), (2,))
    scores = torch.rand(2, 3, requires_grad=True)
    loss, prob = layer(scores, torch.zeros(2))
    torch.testing.assert_close(prob, scores.softmax(1))
    assert loss.requires_grad and not prob.requires_grad
    assert layer.top_shapes([(2, 3), (2,)]) == [(), (2, 3)]


@pytest.mark.parametrize("label", [-1.0, 3.0, 255.0])
def test_a_label_that_is_no_class_is_an_error(label):
    layer = make_layer('type: "SoftmaxWithLoss"', (1, 3), (1,))
    with pytest.raises(CaffeError, match=f"label {int(label)}"):
        layer(torch.zeros(1, 3), torch.tensor([label]))


@pytest.mark.parametrize("labels", [(3,), (2, 2), (4, 1)])
def test_refuses_another_number_of_labels(labels):
    layer = make_layer('type: "SoftmaxWithLoss"', (2, 3), (2,))
    with pytest.raises(CaffeError):
        layer.top_shapes([(2, 3), labels])


def test_third_top_is_the_loss_at_each_position():
    """R-FCN's, from which the hard examples are chosen."""
    layer = make_layer(
        'type: "SoftmaxWithLoss" top: "loss" top: "prob" top: "each" loss_param { ignore_label: 2 }',
        (2, 3, 2, 2),
        (2, 1, 2, 2),
    )
    scores = torch.randn(2, 3, 2, 2, requires_grad=True)
    labels = torch.tensor([0.0, 1, 2, 1, 0, 2, 2, 1]).reshape(2, 1, 2, 2)
    loss, prob, each = layer(scores, labels)
    wanted = torch.nn.functional.cross_entropy(scores, labels[:, 0].long(), reduction="none", ignore_index=2)
    torch.testing.assert_close(each, wanted.detach()[:, None])
    torch.testing.assert_close(loss, each.sum() / 5)
    assert not each.requires_grad and not prob.requires_grad and loss.requires_grad
