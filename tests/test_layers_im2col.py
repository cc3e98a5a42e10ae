"""Im2col against recorded cases, loops, and the convolution it is one half of."""

import itertools

import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("Im2col"))
def test_recorded(name):
    check_case(name)


def columns_by_loops(image, kernel, stride, pad, dilation, out):
    """Columns (channels * kernel volume, *out) of an image (channels, *size)."""
    result = np.zeros((image.shape[0], *kernel, *out))
    for channel in range(image.shape[0]):
        for tap in itertools.product(*map(range, kernel)):
            for place in itertools.product(*map(range, out)):
                cell = [p * s - a + t * d for p, s, a, t, d in zip(place, stride, pad, tap, dilation)]
                if all(0 <= c < size for c, size in zip(cell, image.shape[1:])):
                    result[(channel, *tap, *place)] = image[(channel, *cell)]
    return result.reshape(-1, *out)


@pytest.mark.parametrize(
    ("shape", "axis", "kernel", "stride", "pad", "dilation", "out"),
    [
        ((2, 3, 7), 1, (3,), (2,), (1,), (2,), (3,)),
        ((2, 3, 6, 7), 1, (3, 2), (2, 1), (1, 0), (2, 3), (2, 4)),
        ((2, 2, 4, 3, 5), 1, (2, 3, 1), (1, 2, 3), (0, 1, 2), (2, 1, 1), (2, 2, 3)),
        ((2, 2, 4, 3, 5), -3, (2, 1), (1, 2), (0, 0), (1, 1), (2, 3)),
        ((1, 2, 2, 5), 1, (3, 3), (3, 3), (0, 0), (1, 1), (1, 1)),
        ((1, 1, 1, 2, 2, 3, 2), 2, (2, 2, 1, 2), (1, 1, 1, 1), (0, 0, 1, 0), (1, 1, 1, 1), (1, 1, 5, 1)),
    ],
)
def test_any_number_of_axes(shape, axis, kernel, stride, pad, dilation, out):
    numbers = {"kernel_size": kernel, "stride": stride, "pad": pad, "dilation": dilation}
    fields = " ".join(f"{name}: {v}" for name, values in numbers.items() for v in values)
    layer = make_layer(f'type: "Im2col" convolution_param {{ axis: {axis} {fields} }}', shape)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    top = layer(x)
    lead = shape[: axis % len(shape)]
    images = x.detach().numpy().reshape(-1, *shape[len(lead) :])
    wanted = np.stack([columns_by_loops(image, kernel, stride, pad, dilation, out) for image in images])
    assert layer.top_shapes([shape]) == [tuple(top.shape)] == [(*lead, *wanted.shape[1:])]
    np.testing.assert_array_equal(top.detach().numpy().reshape(wanted.shape), wanted)
    assert torch.autograd.gradcheck(layer, (x,), fast_mode=True)


def test_weights_times_columns_is_the_convolution():
    geometry = "kernel_h: 2 kernel_w: 3 stride: 2 pad: 1"
    convolution = make_layer(
        f'type: "Convolution" convolution_param {{ num_output: 4 {geometry} weight_filler {{ type: "xavier" }} }}',
        (2, 3, 5, 6),
    )
    x = torch.rand(2, 3, 5, 6)
    columns = make_layer(f'type: "Im2col" convolution_param {{ {geometry} }}', (2, 3, 5, 6))(x)
    product = torch.einsum("ok,nkhw->nohw", convolution.blobs[0].flatten(1), columns)
    torch.testing.assert_close(product, convolution(x))


@pytest.mark.parametrize(
    "fields",
    [
        "",
        "kernel_size: 0",
        "kernel_size: 3 stride: 0",
        "kernel_size: 9",
        "kernel_size: 3 axis: 3",
        "kernel_size: 1 kernel_size: 1 kernel_size: 1",
        "kernel_size: 3 kernel_h: 3 kernel_w: 3",
    ],
)
def test_refusals(fields):
    with pytest.raises(CaffeError):
        make_layer(f'type: "Im2col" convolution_param {{ {fields} }}', (2, 3, 5, 6)).top_shapes([(2, 3, 5, 6)])
