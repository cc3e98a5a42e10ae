import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("Embed"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("bias", ["true", "false"])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0, 2)])
def test_rows_of_the_table(bias, shape):
    text = f"""type: "Embed" embed_param {{ num_output: 3 input_dim: 4 bias_term: {bias}
               weight_filler {{ type: "uniform" }} bias_filler {{ type: "uniform" }} }}"""
    layer = make_layer(text, shape)
    assert layer.top_shapes([shape]) == [(*shape, 3)]
    weight, *rest = (blob.detach().numpy() for blob in layer.blobs)
    assert weight.shape == (4, 3) and [b.shape for b in rest] == ([(3,)] if bias == "true" else [])
    index = np.random.randint(0, 4, shape)
    top = layer(torch.as_tensor(index).float())
    np.testing.assert_allclose(top.detach().numpy(), weight[index] + (rest[0] if rest else 0), rtol=1e-6)
    gradient = torch.randn(top.shape)
    top.backward(gradient)
    wanted = np.zeros((4, 3), "f")
    np.add.at(wanted, index, gradient.numpy())
    np.testing.assert_allclose(layer.blobs[0].grad.numpy(), wanted, atol=1e-6)
    if rest:
        np.testing.assert_allclose(layer.blobs[1].grad.numpy(), gradient.numpy().reshape(-1, 3).sum(0), atol=1e-6)


@pytest.mark.parametrize("index", [-1.0, 4.0])
def test_an_index_outside_the_table_is_an_error(index):
    layer = make_layer('type: "Embed" embed_param { num_output: 3 input_dim: 4 }', (1,))
    with pytest.raises(CaffeError, match="outside"):
        layer(torch.tensor([index]))


@pytest.mark.parametrize(
    "fields", ["num_output: 3", "input_dim: 3", "num_output: 0 input_dim: 3", "num_output: 100000 input_dim: 100000"]
)
def test_refusals(fields):
    with pytest.raises(CaffeError):
        make_layer(f'type: "Embed" embed_param {{ {fields} }}', (2,))
