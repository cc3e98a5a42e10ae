import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("BatchReindex"))
def test_recorded(name):
    check_case(name)


def test_repeated_items_add_their_gradients():
    layer = make_layer('type: "BatchReindex"', (3, 2), (4,))
    items = torch.rand(3, 2, requires_grad=True)
    top = layer(items, torch.tensor([2.0, 0, 2.9, 2]))
    torch.testing.assert_close(top, items[[2, 0, 2, 2]])
    top.backward(torch.tensor([[1.0, 1], [2, 2], [3, 3], [4, 5]]))
    assert items.grad.tolist() == [[2, 2], [0, 0], [8, 9]]


@pytest.mark.parametrize("shape", [(4,), (4, 0), (4, 2, 3)])
@pytest.mark.parametrize("rows", [0, 6])
def test_any_number_of_rows_and_axes(shape, rows):
    layer = make_layer('type: "BatchReindex"', shape, (rows,))
    assert layer.top_shapes([shape, (rows,)]) == [(rows, *shape[1:])]
    assert layer(torch.rand(shape), torch.zeros(rows)).shape == (rows, *shape[1:])


@pytest.mark.parametrize("index", [-1.0, -0.5, 3.0, float("nan"), float("inf")])
def test_an_index_outside_the_batch_is_an_error(index):
    layer = make_layer('type: "BatchReindex"', (3, 2), (1,))
    with pytest.raises(CaffeError, match="outside"):
        layer(torch.rand(3, 2), torch.tensor([index]))


@pytest.mark.parametrize("shapes", [((3, 2), (2, 2)), ((3, 2), ()), ((), (2,))])
def test_refuses_other_shapes(shapes):
    with pytest.raises(CaffeError):
        make_layer('type: "BatchReindex"', *shapes).top_shapes(list(shapes))
