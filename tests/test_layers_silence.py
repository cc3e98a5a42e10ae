import pytest
import torch
from layer_cases import cases, check_case, make_layer


@pytest.mark.parametrize("name", cases("Silence"))
def test_recorded(name):
    check_case(name)


def test_makes_nothing():
    layer = make_layer('type: "Silence"', (1,), (2,))
    assert layer(torch.zeros(1), torch.zeros(2)) == () and layer.top_shapes([(1,), (2,)]) == []
