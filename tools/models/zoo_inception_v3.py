"""Inception-v3 with the names of its Caffe model; its input is 299 x 299, from -1 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L
from caffe_bridge.pycaffe.net_spec import params as P

from . import zoo_batch_norm as b
from . import zoo_blocks as z

Step = tuple[str, int, tuple[int, int]]
"""Name, channels, and height and width of the kernel, of a convolution that keeps the size."""


def inception_v3() -> dict[str, Any]:
    return {"deploy.prototxt": z.deploy("Inception-v3", (1, 3, 299, 299), _classifier)}


def _classifier(n: NetSpec) -> None:
    top = _stem(n)
    for i, projected in ((1, 32), (2, 64), (3, 64)):
        top = _module_a(n, f"inception_a{i}_", top, projected)
    top = _reduction_a(n, top)
    for i, inner in ((1, 128), (2, 160), (3, 160), (4, 192)):
        top = _module_b(n, f"inception_b{i}_", top, inner)
    top = _reduction_b(n, top)
    for i, method in ((1, "AVE"), (2, "MAX")):
        top = _module_c(n, f"inception_c{i}_", top, method)
    n.pool_8x8_s1 = L.Pooling(n[top], pool=P.Pooling.AVE, global_pooling=True)
    z.dropout(n, "pool_8x8_s1_drop", "pool_8x8_s1", 0.2)
    z.fc(n, "classifier", "pool_8x8_s1_drop", 1000, z.XAVIER)
    n.prob = L.Softmax(n.classifier)


def _stem(n: NetSpec) -> str:
    top = _conv(n, "conv1_3x3_s2", "data", 32, (3, 3), stride=2, relu="conv1_3x3_relu")
    top = _conv(n, "conv2_3x3_s1", top, 32, (3, 3), pad=(0, 0), relu="conv2_3x3_relu")
    top = _conv(n, "conv3_3x3_s1", top, 64, (3, 3), relu="conv3_3x3_relu")
    top = z.pool(n, "pool1_3x3_s2", top)
    top = _conv(n, "conv4_3x3_reduce", top, 80, (1, 1), relu="conv4_relu_3x3_reduce")
    top = _conv(n, "conv4_3x3", top, 192, (3, 3), pad=(0, 0), relu="conv4_relu_3x3")
    return z.pool(n, "pool2_3x3_s2", top)


def _module_a(n: NetSpec, prefix: str, bottom: str, projected: int) -> str:
    ends = [
        _chain(n, prefix, bottom, [("1x1", 64, (1, 1))]),
        _chain(n, prefix, bottom, [("5x5_reduce", 48, (1, 1)), ("5x5", 64, (5, 5))]),
        _chain(n, prefix, bottom, [("3x3_reduce", 64, (1, 1)), ("3x3_1", 96, (3, 3)), ("3x3_2", 96, (3, 3))]),
        _projection(n, f"{prefix}pool", bottom, f"{prefix}pool_proj", projected),
    ]
    return _concat(n, f"{prefix}output", ends)


def _reduction_a(n: NetSpec, bottom: str) -> str:
    prefix = "reduction_a_"
    double = _chain(n, prefix, bottom, [("3x3_2_reduce", 64, (1, 1)), ("3x3_2", 96, (3, 3))])
    ends = [
        _conv(n, f"{prefix}3x3", bottom, 384, (3, 3), stride=2),
        _conv(n, f"{prefix}3x3_3", double, 96, (3, 3), stride=2),
        z.pool(n, f"{prefix}pool", bottom),
    ]
    return _concat(n, f"{prefix}concat", ends)


def _module_b(n: NetSpec, prefix: str, bottom: str, inner: int) -> str:
    single: list[Step] = [("1x7_reduce", inner, (1, 1)), ("1x7", inner, (1, 7)), ("7x1", 192, (7, 1))]
    double: list[Step] = [
        ("7x1_reduce", inner, (1, 1)),
        ("7x1_2", inner, (7, 1)),
        ("1x7_2", inner, (1, 7)),
        ("7x1_3", inner, (7, 1)),
        ("1x7_3", 192, (1, 7)),
    ]
    ends = [
        _chain(n, prefix, bottom, [("1x1_2", 192, (1, 1))]),
        _chain(n, prefix, bottom, single),
        _chain(n, prefix, bottom, double),
        _projection(n, f"{prefix}pool_ave", bottom, f"{prefix}1x1", 192),
    ]
    return _concat(n, f"{prefix}concat", ends)


def _reduction_b(n: NetSpec, bottom: str) -> str:
    prefix = "reduction_b_"
    single = _chain(n, prefix, bottom, [("3x3_reduce", 192, (1, 1))])
    double = _chain(n, prefix, bottom, [("1x7_reduce", 192, (1, 1)), ("1x7", 192, (1, 7)), ("7x1", 192, (7, 1))])
    ends = [
        _conv(n, f"{prefix}3x3", single, 320, (3, 3), stride=2),
        _conv(n, f"{prefix}3x3_2", double, 192, (3, 3), stride=2),
        z.pool(n, f"{prefix}pool", bottom),
    ]
    return _concat(n, f"{prefix}concat", ends)


def _module_c(n: NetSpec, prefix: str, bottom: str, method: str) -> str:
    single = _chain(n, prefix, bottom, [("1x3_reduce", 384, (1, 1))])
    double = _chain(n, prefix, bottom, [("3x3_reduce", 448, (1, 1)), ("3x3", 384, (3, 3))])
    ends = [
        _chain(n, prefix, bottom, [("1x1_2", 320, (1, 1))]),
        *(_chain(n, prefix, single, [step]) for step in (("1x3", 384, (1, 3)), ("3x1", 384, (3, 1)))),
        *(_chain(n, prefix, double, [step]) for step in (("1x3_2", 384, (1, 3)), ("3x1_2", 384, (3, 1)))),
        _projection(n, f"{prefix}pool", bottom, f"{prefix}1x1", 192, method),
    ]
    return _concat(n, f"{prefix}concat", ends)


def _chain(n: NetSpec, prefix: str, bottom: str, steps: Sequence[Step]) -> str:
    """Convolutions one above the other; returns the last one's name."""
    for name, channels, kernel in steps:
        bottom = _conv(n, prefix + name, bottom, channels, kernel)
    return bottom


def _projection(n: NetSpec, pool: str, bottom: str, name: str, channels: int, method: str = "AVE") -> str:
    return _conv(n, name, z.pool(n, pool, bottom, method, stride=1, pad=1), channels, (1, 1))


def _conv(
    n: NetSpec,
    name: str,
    bottom: str,
    channels: int,
    kernel: tuple[int, int],
    stride: int = 1,
    pad: tuple[int, int] | None = None,
    relu: str = "",
) -> str:
    """Convolution, normalization and ReLU; padded to keep the size unless it has a stride or a `pad` of its own."""
    (height, width), settings = kernel, dict[str, int]()
    high, wide = pad if pad is not None else (height // 2, width // 2) if stride == 1 else (0, 0)
    settings |= {"kernel_size": height} if height == width else {"kernel_h": height, "kernel_w": width}
    if high == wide:
        settings |= {"pad": high} if high else {}
    else:
        settings |= {"pad_h": high, "pad_w": wide}
    settings |= {"stride": stride} if stride > 1 else {}
    b.conv(n, name, bottom, channels, **settings)
    return b.normalize(n, f"{name}_bn", f"{name}_scale", name, relu or f"{name}_relu", eps=0.001)


def _concat(n: NetSpec, name: str, bottoms: Sequence[str]) -> str:
    n[name] = L.Concat(*(n[bottom] for bottom in bottoms))
    return name
