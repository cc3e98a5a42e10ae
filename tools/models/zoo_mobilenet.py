"""MobileNet, versions 1 and 2, with the names of their widely used Caffe models."""

from __future__ import annotations

from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L
from caffe_bridge.pycaffe.net_spec import params as P

from . import zoo_batch_norm as b
from . import zoo_blocks as z

SEPARABLE = (
    *(("2_1", 64, 1), ("2_2", 128, 2), ("3_1", 128, 1), ("3_2", 256, 2), ("4_1", 256, 1), ("4_2", 512, 2)),
    *((f"5_{i}", 512, 1) for i in range(1, 6)),
    *(("5_6", 1024, 2), ("6", 1024, 1)),
)
"""Name, channels and stride of version 1's depthwise separable convolutions."""

STAGES = (
    (1, 16, ("2_1",), 1),
    (6, 24, ("2_2", "3_1"), 2),
    (6, 32, ("3_2", "4_1", "4_2"), 2),
    (6, 64, ("4_3", "4_4", "4_5", "4_6"), 1),
    (6, 96, ("4_7", "5_1", "5_2"), 2),
    (6, 160, ("5_3", "6_1", "6_2"), 2),
    (6, 320, ("6_3",), 1),
)
"""Expansion, channels, names, and the stride of the first, of version 2's inverted residuals."""


def mobilenet() -> dict[str, Any]:
    return {"deploy.prototxt": z.deploy("MOBILENET", (1, 3, 224, 224), _version_1)}


def mobilenet_v2() -> dict[str, Any]:
    return {"deploy.prototxt": z.deploy("MOBILENET_V2", (1, 3, 224, 224), _version_2)}


def _version_1(n: NetSpec) -> None:
    top = _conv(n, "conv1", "relu1", "data", 32, kernel_size=3, stride=2, pad=1)
    channels = 32
    for name, wide, stride in SEPARABLE:
        settings = {"kernel_size": 3, "stride": stride, "pad": 1, "group": channels}
        top = _conv(n, f"conv{name}/dw", f"relu{name}/dw", top, channels, **settings)
        top = _conv(n, f"conv{name}/sep", f"relu{name}/sep", top, wide, kernel_size=1)
        channels = wide
    _score(n, top)


def _version_2(n: NetSpec) -> None:
    top = _conv(n, "conv1", "relu1", "data", 32, kernel_size=3, stride=2, pad=1)
    channels = 32
    for expansion, wide, names, stride in STAGES:
        for name in names:
            residual = _inverted_residual(n, name, top, channels * expansion, wide, stride)
            if wide == channels and stride == 1:
                n[f"block_{name}"] = L.Eltwise(n[top], n[residual])
                residual = f"block_{name}"
            top, channels, stride = residual, wide, 1
    _score(n, _conv(n, "conv6_4", "relu6_4", top, 1280, kernel_size=1))


def _inverted_residual(n: NetSpec, name: str, bottom: str, inner: int, channels: int, stride: int) -> str:
    top = _conv(n, f"conv{name}/expand", f"relu{name}/expand", bottom, inner, kernel_size=1)
    settings = {"kernel_size": 3, "stride": stride, "pad": 1, "group": inner}
    top = _conv(n, f"conv{name}/dwise", f"relu{name}/dwise", top, inner, **settings)
    return _conv(n, f"conv{name}/linear", "", top, channels, kernel_size=1)


def _conv(n: NetSpec, name: str, relu: str, bottom: str, channels: int, **settings: int) -> str:
    top = b.conv(n, name, bottom, channels, **settings)
    return b.normalize(n, f"{name}/bn", f"{name}/scale", top, relu)


def _score(n: NetSpec, bottom: str) -> None:
    n.pool6 = L.Pooling(n[bottom], pool=P.Pooling.AVE, global_pooling=True)
    z.conv(n, "fc7", "pool6", 1000, 1, z.XAVIER)
    n.prob = L.Softmax(n.fc7)
