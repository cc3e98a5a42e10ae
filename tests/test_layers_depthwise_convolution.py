import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("DepthwiseConvolution", "ConvolutionDepthwise", folder="forks"))
def test_recorded(name):
    check_case(name)


def test_convolution_depthwise_has_a_filter_per_channel():
    fields = "num_output: 7 group: 1 kernel_h: 3 kernel_w: 1 pad: 1 stride: 2 dilation: 2"
    layer = make_layer(f'type: "ConvolutionDepthwise" convolution_param {{ {fields} }}', (1, 5, 9, 9))
    assert [tuple(blob.shape) for blob in layer.blobs] == [(5, 1, 3, 1), (5,)]
    assert layer.top_shapes([(1, 5, 9, 9)]) == [(1, 5, 4, 6)]


@pytest.mark.parametrize(
    "fields", ["kernel_size: 3 pad: 1", "kernel_size: 3 stride: 1", "kernel_size: 3 stride: 1 pad_h: 1"]
)
def test_convolution_depthwise_has_no_defaults(fields):
    with pytest.raises(CaffeError, match="needs"):
        make_layer(f'type: "ConvolutionDepthwise" convolution_param {{ {fields} }}', (1, 5, 9, 9))


def test_depthwise_convolution_is_a_convolution():
    text = "convolution_param { num_output: 4 group: 2 kernel_size: 3 }"
    a, b = (make_layer(f'type: "{kind}" {text}', (1, 4, 5, 5)) for kind in ("DepthwiseConvolution", "Convolution"))
    a.load_state_dict(b.state_dict())
    x = torch.rand(1, 4, 5, 5)
    assert torch.equal(a(x), b(x))
