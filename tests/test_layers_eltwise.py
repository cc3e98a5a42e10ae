import math

import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("Eltwise"))
def test_recorded(name):
    check_case(name)


def gradients(fields, *values):
    bottoms = [torch.tensor(v, dtype=torch.float32, requires_grad=True) for v in values]
    layer = make_layer(f'type: "Eltwise" eltwise_param {{ {fields} }}', *[b.shape for b in bottoms])
    top = layer(*bottoms)
    top.backward(torch.ones_like(top))
    return top.tolist(), [b.grad.tolist() for b in bottoms]


def test_max_ties():
    top, grads = gradients("operation: MAX", [1, 2, 3], [1, 0, 3], [1, 2, 4])
    assert top == [1, 2, 4]
    assert grads == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_product_gradient_at_zero():
    stable, unstable = (gradients(f"operation: PROD stable_prod_grad: {s}", [0, 2], [3, 4]) for s in ("true", "false"))
    assert stable == ([0, 8], [[3, 4], [0, 2]])
    assert unstable[1][0][1] == 4 and unstable[1][1] == [0, 2]
    assert math.isnan(unstable[1][0][0])


def test_weighted_sum():
    top, grads = gradients("operation: SUM coeff: 2 coeff: -1 coeff: 1", [1], [2], [3])
    assert (top, grads) == ([3], [[2], [-1], [1]])


def test_refusals():
    shapes = [(2,), (2,)]
    for fields in ("coeff: 1", "operation: PROD coeff: 1 coeff: 1"):
        with pytest.raises(CaffeError, match="coeff"):
            make_layer(f'type: "Eltwise" eltwise_param {{ {fields} }}', *shapes)
    with pytest.raises(CaffeError, match="one shape"):
        make_layer('type: "Eltwise"', *shapes).top_shapes([(2,), (1,)])
    with pytest.raises(CaffeError, match="bottom"):
        make_layer('type: "Eltwise"', (2,))
