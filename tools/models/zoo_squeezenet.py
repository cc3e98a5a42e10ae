"""SqueezeNet 1.1 as its authors released it."""

from __future__ import annotations

from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L
from caffe_bridge.pycaffe.net_spec import params as P

from . import blocks
from . import zoo_blocks as z

FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}
"""Channels of the squeezing convolution and of each of the two expanding ones."""

POOLED = (3, 5)
"""Modules with a pooling above them."""


def squeezenet() -> dict[str, Any]:
    return {"deploy.prototxt": z.deploy("SqueezeNet-v1.1", (1, 3, 227, 227), _classifier)}


def _classifier(n: NetSpec) -> None:
    top = _conv(n, "", "conv1", "data", 64, 3, stride=2)
    top = z.pool(n, "pool1", top)
    for i, (squeezed, expanded) in FIRES.items():
        prefix = f"fire{i}/"
        top = _conv(n, prefix, "squeeze1x1", top, squeezed, 1)
        ends = [
            _conv(n, prefix, "expand1x1", top, expanded, 1),
            _conv(n, prefix, "expand3x3", top, expanded, 3, pad=1),
        ]
        n[f"{prefix}concat"] = L.Concat(*(n[end] for end in ends))
        top = f"{prefix}concat"
        if i in POOLED:
            top = z.pool(n, f"pool{i}", top)
    z.dropout(n, "drop9", top, 0.5)
    top = _conv(n, "", "conv10", "drop9", 1000, 1)
    n.pool10 = L.Pooling(n[top], pool=P.Pooling.AVE, global_pooling=True)
    n.prob = L.Softmax(n.pool10)


def _conv(n: NetSpec, prefix: str, name: str, bottom: str, channels: int, size: int, **settings: Any) -> str:
    top = z.conv(n, prefix + name, bottom, channels, size, z.XAVIER, **settings)
    blocks.relu(n, f"{prefix}relu_{name}", top)
    return top
