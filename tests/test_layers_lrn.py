import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("LRN"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("size", [1, 5, 9])
@pytest.mark.parametrize("region", ["ACROSS_CHANNELS", "WITHIN_CHANNEL"])
def test_is_its_definition(size, region):
    fields = f"local_size: {size} alpha: 2 beta: 0.6 k: 3 norm_region: {region}"
    layer = make_layer(f'type: "LRN" lrn_param {{ {fields} }}', (2, 4, 3, 5)).double()
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    square, half = x.numpy() ** 2, size // 2
    scale = np.empty_like(square)
    for n, c, h, w in np.ndindex(*scale.shape):
        if region == "ACROSS_CHANNELS":
            scale[n, c, h, w] = 3 + 2 / size * square[n, max(c - half, 0) : c + half + 1, h, w].sum()
        else:
            cells = square[n, c, max(h - half, 0) : h + half + 1, max(w - half, 0) : w + half + 1]
            scale[n, c, h, w] = 1 + 2 / size**2 * cells.sum()
    np.testing.assert_allclose(layer(x).numpy(), x.numpy() * scale**-0.6, rtol=1e-6)


def test_refusals():
    with pytest.raises(CaffeError, match="odd"):
        make_layer('type: "LRN" lrn_param { local_size: 4 }', (1, 1, 1, 1))
    with pytest.raises(CaffeError, match="4-axis"):
        make_layer('type: "LRN"', (1, 1)).top_shapes([(1, 1)])
