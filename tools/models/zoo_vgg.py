"""VGG-16 as its authors released it, and the segmentation net FCN-8s that was cast from it."""

from __future__ import annotations

from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L

from . import blocks
from . import zoo_blocks as z

BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""Convolutions and channels of the five blocks, each of which ends with a pooling."""


def vgg16() -> dict[str, Any]:
    return {"deploy.prototxt": z.deploy("VGG_ILSVRC_16_layers", (1, 3, 224, 224), z.probabilities(_classifier))}


def fcn8s() -> dict[str, Any]:
    return {"deploy.prototxt": z.deploy("FCN-8s", (1, 3, 500, 500), _segmentation)}


def trunk(n: NetSpec, first_pad: int = 1, last: int = 5) -> str:
    """From `data` to the last convolution of block `last`, without the pooling above it."""
    top = "data"
    for block, (convolutions, channels) in enumerate(BLOCKS[:last], start=1):
        for i in range(1, convolutions + 1):
            pad = first_pad if top == "data" else 1
            top = z.conv(n, f"conv{block}_{i}", top, channels, 3, z.XAVIER, pad=pad)
            blocks.relu(n, f"relu{block}_{i}", top)
        if block < last:
            top = z.pool(n, f"pool{block}", top, kernel_size=2)
    return top


def _classifier(n: NetSpec) -> str:
    top = z.pool(n, "pool5", trunk(n), kernel_size=2)
    for i in (6, 7):
        top = z.fc(n, f"fc{i}", top, 4096, z.XAVIER)
        blocks.relu(n, f"relu{i}", top)
        z.dropout(n, f"drop{i}", top, 0.5)
    return z.fc(n, "fc8", top, 1000, z.XAVIER)


def _segmentation(n: NetSpec) -> None:
    """21 scores per pixel. The image is padded so widely that scores cover it after every crop."""
    top = z.pool(n, "pool5", trunk(n, first_pad=100), kernel_size=2)
    for i, size in ((6, 7), (7, 1)):
        top = z.conv(n, f"fc{i}", top, 4096, size, z.XAVIER)
        blocks.relu(n, f"relu{i}", top)
        z.dropout(n, f"drop{i}", top, 0.5)
    z.conv(n, "score_fr", top, 21, 1, z.XAVIER)
    _upscore(n, "upscore2", "score_fr", 2)
    for level, offset, above, up in (
        (4, 5, "upscore2", ("upscore_pool4", 2)),
        (3, 9, "upscore_pool4", ("upscore8", 8)),
    ):
        z.conv(n, f"score_pool{level}", f"pool{level}", 21, 1, z.XAVIER)
        n[f"score_pool{level}c"] = L.Crop(n[f"score_pool{level}"], n[above], axis=2, offset=offset)
        n[f"fuse_pool{level}"] = L.Eltwise(n[above], n[f"score_pool{level}c"])
        _upscore(n, up[0], f"fuse_pool{level}", up[1])
    n.score = L.Crop(n.upscore8, n.data, axis=2, offset=31)


def _upscore(n: NetSpec, name: str, bottom: str, factor: int) -> None:
    settings = {"num_output": 21, "kernel_size": 2 * factor, "stride": factor, "bias_term": False}
    n[name] = L.Deconvolution(n[bottom], convolution_param=settings)
