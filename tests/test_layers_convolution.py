"""Convolution and Deconvolution against recorded cases and the definition written out in NumPy."""

import itertools

import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


def correlate(x, weight, stride, pad, dilation, group, out):
    """Every product of a convolution over (images, channels, *spatial), cell by cell; outside the input is 0."""
    images, spatial = x.shape[0], x.shape[2:]
    outputs, inputs = weight.shape[:2]
    top = np.zeros((images, outputs, *out))
    for o in range(outputs):
        first = o // (outputs // group) * inputs
        for place in itertools.product(*map(range, out)):
            for tap in itertools.product(*map(range, weight.shape[2:])):
                cell = [p * s - q + t * d for p, s, q, t, d in zip(place, stride, pad, tap, dilation)]
                if all(0 <= c < n for c, n in zip(cell, spatial)):
                    values = x[(slice(None), slice(first, first + inputs), *cell)]
                    top[(slice(None), o, *place)] += values @ weight[(o, slice(None), *tap)]
    return top


def text(kind, ndim, outputs, kernel, stride, pad, dilation, group, extra=""):
    fields = [("kernel_size", kernel), ("stride", stride), ("pad", pad), ("dilation", dilation)]
    spread = " ".join(f"{name}: {value}" for name, values in fields for value in values[:ndim])
    return (
        f'type: "{kind}" convolution_param {{ num_output: {outputs} group: {group} {spread} '
        f'weight_filler {{ type: "gaussian" std: 0.5 }} bias_filler {{ type: "uniform" min: -1 max: 1 }} {extra} }}'
    )


SHAPES = [
    # bottom, outputs, kernel, stride, pad, dilation, group
    ((2, 4, 9), 6, (3,), (2,), (1,), (2,), 2),
    ((2, 4, 6, 7), 4, (3, 2), (2, 1), (1, 2), (1, 2), 4),
    ((1, 3, 5, 4), 2, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    ((1, 2, 4, 5, 3), 4, (2, 3, 2), (1, 2, 1), (1, 0, 1), (2, 1, 1), 2),
    ((1, 2, 3, 6), 3, (5, 2), (3, 2), (0, 0), (1, 1), 1),
    ((0, 2, 5, 5), 3, (3, 3), (1, 1), (1, 1), (1, 1), 1),
]


@pytest.mark.parametrize("name", cases("Convolution", "ConvolutionND", "Deconvolution"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("shape", SHAPES)
def test_convolution_is_its_definition(shape):
    bottom, outputs, kernel, stride, pad, dilation, group = shape
    layer = make_layer(text("Convolution", len(kernel), outputs, kernel, stride, pad, dilation, group), bottom)
    x = torch.rand(bottom, dtype=torch.float64)
    layer.double()
    out = layer.top_shapes([bottom])[0]
    weight, bias = (blob.detach().numpy() for blob in layer.blobs)
    assert weight.shape == (outputs, bottom[1] // group, *kernel)
    wanted = correlate(x.numpy(), weight, stride, pad, dilation, group, out[2:])
    wanted += bias.reshape(-1, *[1] * len(kernel))
    np.testing.assert_allclose(layer(x).detach().numpy(), wanted, atol=1e-9)


@pytest.mark.parametrize("shape", [*SHAPES[:4], ((1, 2, 3, 4), 2, (2, 2), (2, 3), (3, 2), (2, 1), 1)])
def test_deconvolution_is_the_transpose(shape):
    bottom, outputs, kernel, stride, pad, dilation, group = shape
    fields = (outputs, kernel, stride, pad, dilation, group, "bias_term: false")
    layer = make_layer(text("Deconvolution", len(kernel), *fields), bottom).double()
    out = layer.top_shapes([bottom])[0]
    weight = layer.blobs[0].detach()
    assert weight.shape == (bottom[1], outputs // group, *kernel)
    x, probe = torch.rand(bottom, dtype=torch.float64), torch.rand(out, dtype=torch.float64)
    back = correlate(probe.numpy(), weight.numpy(), stride, pad, dilation, group, bottom[2:])
    assert (layer(x).detach() * probe).sum().item() == pytest.approx((x.numpy() * back).sum())


def test_axis_makes_leading_axes_images():
    layer = make_layer(text("Convolution", 2, 5, (3, 3), (1, 1), (1, 1), (1, 1), 1, "axis: -3"), (2, 3, 4, 6, 6))
    plain = make_layer(text("Convolution", 2, 5, (3, 3), (1, 1), (1, 1), (1, 1), 1), (6, 4, 6, 6))
    plain.load_state_dict(layer.state_dict())
    x = torch.rand(2, 3, 4, 6, 6)
    torch.testing.assert_close(layer(x), plain(x.flatten(0, 1)).unflatten(0, (2, 3)))


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_no_spatial_axes(kind):
    layer = make_layer(f'type: "{kind}" convolution_param {{ num_output: 4 kernel_size: 1 group: 2 }}', (5, 6))
    shape = (4, 3) if kind == "Convolution" else (6, 2)
    assert layer.blobs[0].shape == shape
    with torch.no_grad():
        layer.blobs[0].copy_(torch.rand(shape))
    x = torch.rand(5, 6)
    halves = []
    for half, weight in zip(x.split(3, 1), layer.blobs[0].split(shape[0] // 2)):
        halves.append(half @ (weight.T if kind == "Convolution" else weight))
    torch.testing.assert_close(layer(x), torch.cat(halves, 1))
    assert layer.top_shapes([(5, 6)]) == [(5, 4)]


def test_several_bottoms_share_the_filters():
    layer = make_layer(
        'type: "Convolution" top: "a" top: "b" convolution_param { num_output: 2 kernel_size: 2 bias_term: false }',
        (1, 3, 4, 4),
        (1, 3, 4, 4),
    )
    x = torch.rand(2, 1, 3, 4, 4)
    a, b = layer(x[0], x[1])
    torch.testing.assert_close(torch.cat([a, b]), make_layer_like(layer)(x.flatten(0, 1)))
    with pytest.raises(CaffeError, match="one shape"):
        layer.top_shapes([(1, 3, 4, 4), (1, 3, 4, 5)])


def make_layer_like(layer):
    one = make_layer(
        'type: "Convolution" convolution_param { num_output: 2 kernel_size: 2 bias_term: false }', (2, 3, 4, 4)
    )
    one.load_state_dict(layer.state_dict())
    return one


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ("num_output: 2", (1, 2, 4, 4)),
        ("kernel_size: 3", (1, 2, 4, 4)),
        ("num_output: 2 kernel_size: 0", (1, 2, 4, 4)),
        ("num_output: 2 kernel_size: 1 stride: 0", (1, 2, 4, 4)),
        ("num_output: 2 kernel_size: 1 stride_h: 2", (1, 2, 4, 4)),
        ("num_output: 2 kernel_size: 1 group: 0", (1, 2, 4, 4)),
        ("num_output: 3 kernel_size: 1 group: 2", (1, 2, 4, 4)),
        ("num_output: 2 kernel_size: 1 group: 2", (1, 3, 4, 4)),
        ("num_output: 2 kernel_size: 1 kernel_h: 1 kernel_w: 1", (1, 2, 4, 4)),
        ("num_output: 2 kernel_h: 1 kernel_w: 1", (1, 2, 4)),
        ("num_output: 2 kernel_size: 1 kernel_size: 1", (1, 2, 4, 4, 4)),
        ("num_output: 2 kernel_size: 1 pad: 1 pad: 1 pad: 1", (1, 2, 4, 4)),
        ("num_output: 2 kernel_size: 1 axis: 4", (1, 2, 4, 4)),
    ],
)
@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_refuses_what_caffe_refuses(kind, fields, shape):
    with pytest.raises(CaffeError):
        make_layer(f'type: "{kind}" convolution_param {{ {fields} }}', shape)


def test_refuses_other_channels_and_kernels_beyond_the_input():
    layer = make_layer('type: "Convolution" convolution_param { num_output: 2 kernel_size: 5 }', (1, 2, 8, 8))
    with pytest.raises(CaffeError, match="2 channels"):
        layer.top_shapes([(1, 3, 8, 8)])
    with pytest.raises(CaffeError, match="no output"):
        layer.top_shapes([(1, 2, 4, 8)])


@pytest.mark.parametrize(
    ("kind", "shape"), [("Convolution", (3, 2, 2, 6, 4)), ("Deconvolution", (3, 2, 3, 6, 4))], ids=lambda v: str(v)
)
def test_volumes_padded_by_their_own_length(kind, shape):
    fields = "num_output: 3 kernel_size: 4 stride: 2 stride: 1 stride: 3 pad: 3 pad: 0 pad: 1"
    layer = make_layer(
        f'type: "{kind}" convolution_param {{ {fields} weight_filler {{ type: "gaussian" std: 1 }} }}', shape
    )
    x = torch.randn(shape)
    made = {}
    for dtype in (torch.float32, torch.float64):
        layer.to(dtype).zero_grad()
        bottom = x.clone().to(dtype).requires_grad_()
        top = layer(bottom)
        assert top.shape == layer.top_shapes([shape])[0]
        (top * torch.arange(top.numel(), dtype=dtype).view(top.shape).sin()).sum().backward()
        made[dtype] = [top.detach(), bottom.grad, *(blob.grad.clone() for blob in layer.blobs)]
    for single, double in zip(*made.values()):
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)
