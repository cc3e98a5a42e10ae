"""Coordinate maps, against where impulses end up in the layers they describe."""

import numpy as np
import pytest
import torch

from caffe_bridge.pycaffe.coord_map import (
    AxisMismatchException,
    UndefinedMapException,
    compose,
    coord_map,
    coord_map_from_to,
    crop,
    inverse,
)
from caffe_bridge.pycaffe.net_spec import layers as L


def image(side=100):
    return L.Input(shape={"dim": [1, 1, side, side]})


@pytest.mark.parametrize("kernel, stride, pad, dilation", [(3, 1, 0, 1), (5, 2, 2, 1), (3, 3, 1, 2), (1, 1, 0, 1)])
def test_convolution_and_deconvolution_are_where_torch_puts_the_centre_of_their_kernel(kernel, stride, pad, dilation):
    settings = {"kernel_size": kernel, "stride": stride, "pad": pad, "dilation": dilation}
    window = torch.ones(1, 1, kernel)
    cells = torch.arange(60.0).reshape(1, 1, -1)
    _, scale, shift = coord_map(L.Convolution(image(), **settings).fn)
    seen = torch.nn.functional.conv1d(cells, window / kernel, stride=stride, dilation=dilation).flatten() - pad
    positions = torch.arange(len(seen))
    assert np.allclose(float(scale[0]) * seen.numpy() + float(shift[0]), positions)
    _, scale, shift = coord_map(L.Deconvolution(image(), **settings).fn)
    impulse = torch.zeros(1, 1, 60)
    impulse[..., 20] = 1
    spread = torch.nn.functional.conv_transpose1d(impulse, window, stride=stride, padding=pad, dilation=dilation)
    centre = spread.flatten().nonzero().double().mean()
    assert float(scale[0]) * 20 + float(shift[0]) == pytest.approx(float(centre))


def test_up_and_down_again_is_the_identity_and_its_shift_the_crop():
    data = image()
    pooled = L.Pooling(L.Convolution(data, kernel_size=3, pad=10), kernel_size=2, stride=2)
    up = L.ReLU(L.Deconvolution(pooled, kernel_size=4, stride=2), in_place=True)
    assert coord_map_from_to(up, data) == (1, 1, -10)
    back = coord_map_from_to(data, up)
    assert back == inverse((1, 1, -10))
    cropped = crop(up, data)
    assert cropped.fn.params == {"crop_param": {"axis": 2, "offset": [10]}}
    assert coord_map_from_to(cropped, data) == (1, 1, 0)


def test_rectangular_kernels_have_one_entry_per_axis():
    data = image()
    _, scale, shift = coord_map_from_to(L.Convolution(data, kernel_size=[3, 5], stride=[1, 2], pad=[0, 10]), data)
    assert scale.tolist() == [1, 2] and shift.tolist() == [1, -8]


def test_legacy_pooling_param_and_crop_param_are_read():
    data = image()
    pooled = L.Pooling(data, pooling_param={"kernel_size": 2, "stride": 2})
    assert coord_map(pooled.fn) == (1, 0.5, -0.25)
    assert coord_map(L.Crop(data, data, crop_param={"axis": 3, "offset": 4}).fn) == (2, 1, -4)


def test_the_reference_of_a_crop_is_not_its_ancestor():
    data, other = image(), image()
    with pytest.raises(RuntimeError, match="connected by spatial layers"):
        coord_map_from_to(L.Crop(data, other), other)


def test_what_has_no_map():
    data = image()
    with pytest.raises(RuntimeError):
        coord_map_from_to(L.InnerProduct(data, num_output=1), data)
    with pytest.raises(UndefinedMapException):
        coord_map(L.Pooling(data, global_pooling=True).fn)
    with pytest.raises(AxisMismatchException):
        compose((1, 1, 0), (2, 1, 0))
    with pytest.raises(AssertionError, match="kernel_h"):
        coord_map(L.Convolution(data, kernel_h=3, kernel_w=3).fn)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda top: L.Pooling(top, kernel_size=2, stride=2), "scale mismatch"),
        (lambda top: L.Deconvolution(top, kernel_size=1, pad=1), "negative"),
        (lambda top: L.Convolution(top, kernel_size=2), None),
    ],
)
def test_what_cannot_be_cropped(make, message):
    data = image()
    with pytest.raises(AssertionError, match=message):
        crop(make(data), data)
