"""The convolutional trunks: from the image, blob `data`, to the features everything else looks at."""

from __future__ import annotations

from typing import Any

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
            param = blocks.FROZEN if block <= 2 else blocks.of_trunk(m)
            top = _conv3x3(n, m, f"{block}_{i}", top, channels, param=param)
    return top


def zf(n: NetSpec, m: Model) -> str:
    """Zeiler and Fergus's network up to conv5, stride 16, as Faster R-CNN was released on it (ECCV 2014)."""
    top = "data"
    norm = {"local_size": 3, "alpha": 0.00005, "beta": 0.75, "norm_region": P.LRN.WITHIN_CHANNEL}
    for i, (channels, side) in enumerate([(96, 7), (256, 5)], start=1):
        conv = _conv(n, m, f"{i}", top, channels, kernel_size=side, pad=side // 2, stride=2)
        n[f"norm{i}"] = L.LRN(n[conv], **norm, engine=P.LRN.CAFFE)
        top = _pool(n, f"pool{i}", f"norm{i}", kernel_size=3, pad=1)
    for i, channels in enumerate([384, 384, 256], start=3):
        top = _conv(n, m, f"{i}", top, channels, kernel_size=3, pad=1, stride=1)
    return top


def vgg_cnn_m(n: NetSpec, m: Model) -> str:
    """VGG_CNN_M up to conv5, stride 16, with conv1 frozen (Chatfield et al., BMVC 2014)."""
    top = "data"
    settings: list[dict[str, Any]] = [{"kernel_size": 7, "param": blocks.FROZEN}, {"kernel_size": 5, "pad": 1}]
    for i, (channels, own) in enumerate(zip([96, 256], settings), start=1):
        conv = _conv(n, m, f"{i}", top, channels, stride=2, **own)
        n[f"norm{i}"] = L.LRN(n[conv], local_size=5, alpha=0.0005, beta=0.75, k=2)
        top = _pool(n, f"pool{i}", f"norm{i}", kernel_size=3)
    for i in (3, 4, 5):
        top = _conv(n, m, f"{i}", top, 512, kernel_size=3, pad=1)
    return top


def tiny(n: NetSpec, m: Model) -> str:
    """Five thin convolutions, stride 8, for training from scratch on a CPU. Takes the same mean-subtracted image."""
    n.data_scaled = L.Power(n.data, scale=1 / 64)
    top = "data_scaled"
    for block, channels in enumerate([16, 32, 48, 64, 64], start=1):
        if 1 < block < 5:
            top = _pool(n, f"pool{block - 1}", top)
        top = _conv3x3(n, m, f"{block}_1", top, channels, **blocks.pretrained(m))
    return top


def _conv3x3(n: NetSpec, m: Model, suffix: str, bottom: str, channels: int, **settings: Any) -> str:
    return _conv(n, m, suffix, bottom, channels, pad=1, kernel_size=3, **settings)


def _conv(n: NetSpec, m: Model, suffix: str, bottom: str, channels: int, **settings: Any) -> str:
    name = f"conv{suffix}"
    n[name] = L.Convolution(n[bottom], num_output=channels, **{"param": blocks.of_trunk(m), **settings})
    blocks.relu(n, f"relu{suffix}", name)
    return name


def _pool(n: NetSpec, name: str, bottom: str, kernel_size: int = 2, **settings: Any) -> str:
    n[name] = L.Pooling(n[bottom], pool=P.Pooling.MAX, kernel_size=kernel_size, stride=2, **settings)
    return name
