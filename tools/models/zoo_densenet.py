"""DenseNet-121 with the names of its widely used Caffe model."""

from __future__ import annotations

from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L
from caffe_bridge.pycaffe.net_spec import params as P

from . import zoo_batch_norm as b
from . import zoo_blocks as z

GROWTH = 32
LAYERS = {2: 6, 3: 12, 4: 24, 5: 16}
"""Layers of the four dense blocks, by the number in their names."""


def densenet121() -> dict[str, Any]:
    return {"deploy.prototxt": z.deploy("DENSENET_121", (1, 3, 224, 224), _classifier)}


def _classifier(n: NetSpec) -> None:
    channels = 64
    top = b.conv(n, "conv1", "data", channels, kernel_size=7, stride=2, pad=3)
    top = b.normalize(n, "conv1/bn", "conv1/scale", top, "relu1")
    top = z.pool(n, "pool1", top, pad=1, round_mode=P.Pooling.FLOOR)
    for block, layers in LAYERS.items():
        for i in range(1, layers + 1):
            top = _layer(n, f"{block}_{i}", top)
            channels += GROWTH
        top = b.normalize(n, f"conv{block}_blk/bn", f"conv{block}_blk/scale", top, f"relu{block}_blk", in_place=False)
        if block < 5:
            channels //= 2
            top = b.conv(n, f"conv{block}_blk", top, channels, kernel_size=1)
            top = z.pool(n, f"pool{block}", top, "AVE", kernel_size=2)
    n.pool5 = L.Pooling(n[top], pool=P.Pooling.AVE, global_pooling=True)
    z.conv(n, "fc6", "pool5", 1000, 1, z.XAVIER)


def _layer(n: NetSpec, name: str, bottom: str) -> str:
    """GROWTH channels more: normalised, narrowed to four times as many by 1x1, then 3x3."""
    top = bottom
    for step, channels, settings in (
        ("x1", 4 * GROWTH, {"kernel_size": 1}),
        ("x2", GROWTH, {"kernel_size": 3, "pad": 1}),
    ):
        conv = f"conv{name}/{step}"
        # What the block has so far is needed again, so that nothing may be written over it.
        top = b.normalize(n, f"{conv}/bn", f"{conv}/scale", top, f"relu{name}/{step}", in_place=step == "x2")
        top = b.conv(n, conv, top, channels, **settings)
    n[f"concat_{name}"] = L.Concat(n[bottom], n[top])
    return f"concat_{name}"
