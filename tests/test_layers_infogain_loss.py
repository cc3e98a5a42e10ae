"""InfogainLoss against recorded cases and Caffe's loops in NumPy; the matrix from a file or a bottom."""

import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError, schema


@pytest.mark.parametrize("name", cases("InfogainLoss"))
def test_recorded(name):
    check_case(name)


def loss_by_loops(scores, labels, matrix, axis, ignored, mode):
    """Loss and gradient of float64 scores."""
    moved = np.moveaxis(scores, axis, -1)
    prob = np.exp(moved - moved.max(-1, keepdims=True))
    prob /= prob.sum(-1, keepdims=True)
    labels = labels.astype(int).reshape(prob.shape[:-1])
    loss, count, gradient = 0.0, 0, np.zeros_like(prob)
    for place in np.ndindex(*labels.shape):
        if labels[place] == ignored:
            continue
        row = matrix[labels[place]]
        loss -= (row * np.log(np.maximum(prob[place], 1e-20))).sum()
        gradient[place] = prob[place] * row.sum() - row
        count += 1
    outer = int(np.prod(scores.shape[:axis]))
    divisor = max(1, {"FULL": labels.size, "VALID": count, "BATCH_SIZE": outer, "NONE": 1}[mode])
    return loss / divisor, np.moveaxis(gradient, -1, axis) / divisor


@pytest.mark.parametrize("mode", ["FULL", "VALID", "BATCH_SIZE", "NONE"])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3), 1), ((2, 3, 4, 2), 1), ((2, 4, 3), -1)])
@pytest.mark.parametrize("ignored", [None, 1])
def test_every_axis_and_normalisation(mode, shape, axis, ignored):
    ignore = "" if ignored is None else f"ignore_label: {ignored}"
    positions = (shape[0], int(np.prod(shape)) // 3 // shape[0])
    text = f"""type: "InfogainLoss" infogain_loss_param {{ axis: {axis} }}
               loss_param {{ normalization: {mode} {ignore} }}"""
    shapes = [shape, positions, (9,)]
    layer = make_layer(text, *shapes)
    assert layer.top_shapes(shapes) == [()]
    scores = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    labels, matrix = torch.randint(0, 3, positions).double(), torch.rand(9, dtype=torch.float64)
    loss = layer(scores, labels, matrix)
    loss.backward(torch.tensor(2.5, dtype=torch.float64))
    wanted, gradient = loss_by_loops(
        scores.detach().numpy(), labels.numpy(), matrix.numpy().reshape(3, 3), axis % len(shape), ignored, mode
    )
    assert loss.item() == pytest.approx(wanted)
    np.testing.assert_allclose(scores.grad.numpy(), gradient * 2.5, atol=1e-12)


def test_matrix_from_a_file_and_probabilities(tmp_path):
    matrix = np.random.rand(3, 3).astype("f")
    path = tmp_path / "H.binaryproto"
    path.write_bytes(schema.BlobProto(num=1, channels=1, height=3, width=3, data=matrix.ravel()).SerializeToString())
    text = f'type: "InfogainLoss" infogain_loss_param {{ source: "{path}" }}'
    scores, labels = torch.randn(2, 3), torch.tensor([2.0, 0])
    loss, prob = make_layer(text + ' top: "loss" top: "prob"', (2, 3), (2,))(scores, labels)
    assert loss == make_layer('type: "InfogainLoss"', (2, 3), (2,), (3, 3))(scores, labels, torch.from_numpy(matrix))
    torch.testing.assert_close(prob, scores.softmax(1))
    assert not prob.requires_grad
    assert make_layer(text, (2, 3), (2,)).double()(scores.double(), labels).dtype == torch.float64
    with pytest.raises(CaffeError, match="4 x 4"):
        make_layer(text, (2, 4), (2,)).top_shapes([(2, 4), (2,)])


def test_the_identity_gives_softmax_loss():
    scores = torch.randn(5, 3)
    labels = torch.tensor([0.0, 2, 1, 1, 0])
    infogain = make_layer('type: "InfogainLoss"', (5, 3), (5,), (3, 3))(scores, labels, torch.eye(3))
    torch.testing.assert_close(infogain, make_layer('type: "SoftmaxWithLoss"', (5, 3), (5,))(scores, labels))


def test_clamped_loss_keeps_its_gradient():
    layer = make_layer('type: "InfogainLoss"', (1, 2), (1,), (2, 2))
    scores = torch.tensor([[300.0, 0]], requires_grad=True)
    loss = layer(scores, torch.ones(1), torch.eye(2))
    loss.backward()
    assert loss.item() == pytest.approx(-np.log(1e-20)) and scores.grad.tolist() == [[1, -1]]


def test_refusals(tmp_path):
    for text in [
        'type: "InfogainLoss"',
        'type: "InfogainLoss" infogain_loss_param { source: "/nonexistent" }',
        'type: "InfogainLoss" loss_param { normalize: true }',
    ]:
        with pytest.raises(CaffeError):
            make_layer(text, (2, 3), (2,))
    layer = make_layer('type: "InfogainLoss"', (2, 3), (2,), (3, 3))
    for shapes in [[(2, 3), (2,), (3, 2)], [(2, 3), (4,), (3, 3)], [(2, 3), (2, 2), (3, 3)]]:
        with pytest.raises(CaffeError):
            layer.top_shapes(shapes)
    with pytest.raises(CaffeError, match="label 3"):
        layer(torch.zeros(2, 3), torch.tensor([0.0, 3]), torch.eye(3))
