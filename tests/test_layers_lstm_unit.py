"""LSTMUnit against Caffe's loops written out in NumPy: no case of it is recorded."""

import numpy as np
import pytest
import torch
from layer_cases import make_layer

from caffe_bridge import CaffeError


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def unit_by_loops(cell, gates, cont, cell_grad, hidden_grad):
    """Tops and bottom gradients for float64 arrays (num, hidden), (num, 4 * hidden) and (num,)."""
    num, hidden = cell.shape
    new_cell, new_hidden, cell_diff = np.empty_like(cell), np.empty_like(cell), np.empty_like(cell)
    gates_diff = np.empty_like(gates)
    for n in range(num):
        for d in range(hidden):
            i, f, o = (sigmoid(gates[n, k * hidden + d]) for k in range(3))
            f = cont[n] * f if cont[n] else 0
            g = 2 * sigmoid(2 * gates[n, 3 * hidden + d]) - 1
            c = f * cell[n, d] + i * g
            t = np.tanh(c)
            new_cell[n, d], new_hidden[n, d] = c, o * t
            into = cell_grad[n, d] + hidden_grad[n, d] * o * (1 - t * t)
            cell_diff[n, d] = into * f
            slopes = (
                into * g * i * (1 - i),
                into * cell[n, d] * f * (1 - f),
                hidden_grad[n, d] * t * o * (1 - o),
                into * i * (1 - g * g),
            )
            gates_diff[n, d::hidden] = slopes
    return new_cell, new_hidden, cell_diff, gates_diff


@pytest.mark.parametrize("num", [1, 5])
@pytest.mark.parametrize("hidden", [1, 3])
def test_forward_and_gradients(num, hidden):
    shapes = [(1, num, hidden), (1, num, 4 * hidden), (1, num)]
    layer = make_layer('type: "LSTMUnit"', *shapes)
    assert layer.top_shapes(shapes) == [shapes[0], shapes[0]]
    cell, gates = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes[:2])
    cont = torch.tensor([1, 0, 0.5, 1, 2], dtype=torch.float64)[None, :num]
    tops = layer(cell, gates, cont)
    grads = [torch.randn_like(top) for top in tops]
    torch.autograd.backward(tops, grads)
    arrays = (tensor.detach().numpy()[0] for tensor in (cell, gates, cont, *grads))
    for got, wanted in zip((*tops, cell.grad, gates.grad), unit_by_loops(*arrays), strict=True):
        np.testing.assert_allclose(got.detach().numpy()[0], wanted, atol=1e-12)


def test_gradient_is_the_derivative_where_cont_is_0_or_1():
    cell, gates = torch.randn(1, 3, 2, dtype=torch.float64), torch.randn(1, 3, 8, dtype=torch.float64)
    layer = make_layer('type: "LSTMUnit"', (1, 3, 2), (1, 3, 8), (1, 3))
    cont = torch.tensor([[0.0, 1, 1]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda c, g: layer(c, g, cont), (cell.requires_grad_(), gates.requires_grad_()))


def test_the_gradient_of_one_top_alone():
    layer = make_layer('type: "LSTMUnit"', (1, 1, 2), (1, 1, 8), (1, 1))
    gates = torch.randn(1, 1, 8, requires_grad=True)
    layer(torch.randn(1, 1, 2), gates, torch.ones(1, 1))[0].sum().backward()
    assert gates.grad[..., :4].all() and not gates.grad[..., 4:6].any()


@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 3, 2), (2, 3, 8), (2, 3)],
        [(1, 3, 2), (1, 3, 6), (1, 3)],
        [(1, 3, 2), (1, 3, 8), (1, 3, 1)],
        [(1, 3, 2), (1, 2, 8), (1, 3)],
        [(3, 2), (3, 8), (1, 3)],
    ],
)
def test_refusals(shapes):
    with pytest.raises(CaffeError):
        make_layer('type: "LSTMUnit"', *shapes).top_shapes(shapes)
