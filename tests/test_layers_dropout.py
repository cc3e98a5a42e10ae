import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError, randomness

TEXT = 'type: "Dropout" dropout_param { dropout_ratio: 0.2 }'


@pytest.mark.parametrize("name", cases("DropoutTest"))
def test_recorded(name):
    check_case(name)


def test_train_zeroes_and_scales_values_and_gradient_alike():
    layer = make_layer(TEXT, (100, 100), phase="TRAIN")
    x = torch.ones(100, 100, requires_grad=True)
    top = layer(x)
    top.backward(torch.full_like(top, 3))
    assert top.unique().tolist() == [0, pytest.approx(1.25)]
    assert (top == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)
    torch.testing.assert_close(x.grad, top.detach() * 3)


def test_draws_from_our_generator_alone():
    layer = make_layer(TEXT, (1000,), phase="TRAIN")
    before = torch.get_rng_state()
    randomness.seed(5)
    first = layer(torch.ones(1000))
    second = layer(torch.ones(1000))
    randomness.seed(5)
    assert torch.equal(layer(torch.ones(1000)), first) and not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("ratio", [-0.1, 1, 2])
def test_refuses_ratios_that_leave_nothing(ratio):
    with pytest.raises(CaffeError, match="dropout_ratio"):
        make_layer(f'type: "Dropout" dropout_param {{ dropout_ratio: {ratio} }}', (1,))


def test_scale_train_false_scales_in_test_instead():
    text = 'type: "Dropout" dropout_param { dropout_ratio: 0.2 scale_train: false }'
    top = make_layer(text, (100, 100), phase="TRAIN")(torch.ones(100, 100))
    assert top.unique().tolist() == [0, 1]
    torch.testing.assert_close(make_layer(text, (4,), phase="TEST")(torch.ones(4)), torch.full((4,), 0.8))
