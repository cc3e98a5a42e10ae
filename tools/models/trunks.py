"""The convolutional trunks: from the image, blob `data`, to the features everything else looks at."""

from __future__ import annotations

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L
from caffe_bridge.pycaffe.net_spec import params as P

from . import blocks
from .model import Model


def vgg16(n: NetSpec, m: Model) -> str:
    """VGG-16 up to conv5_3, stride 16, with conv1 and conv2 frozen (Simonyan and Zisserman, ICLR 2015)."""
    top = "data"
    for block, (convolutions, channels) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], start=1):
        if block > 1:
            top = _pool(n, f"pool{block - 1}", top)
        for i in range(1, convolutions + 1):
            param = blocks.FROZEN if block <= 2 else blocks.trained(m)
            top = _conv3x3(n, f"{block}_{i}", top, channels, param=param)
    return top


def tiny(n: NetSpec, m: Model) -> str:
    """Five thin convolutions, stride 8, for training from scratch on a CPU. Takes the same mean-subtracted image."""
    n.data_scaled = L.Power(n.data, scale=1 / 64)
    top = "data_scaled"
    for block, channels in enumerate([16, 32, 48, 64, 64], start=1):
        if 1 < block < 5:
            top = _pool(n, f"pool{block - 1}", top)
        top = _conv3x3(n, f"{block}_1", top, channels, param=blocks.trained(m), **blocks.pretrained(m))
    return top


def _conv3x3(n: NetSpec, suffix: str, bottom: str, channels: int, **settings: object) -> str:
    name = f"conv{suffix}"
    n[name] = L.Convolution(n[bottom], num_output=channels, pad=1, kernel_size=3, **settings)
    blocks.relu(n, f"relu{suffix}", name)
    return name


def _pool(n: NetSpec, name: str, bottom: str) -> str:
    n[name] = L.Pooling(n[bottom], pool=P.Pooling.MAX, kernel_size=2, stride=2)
    return name
