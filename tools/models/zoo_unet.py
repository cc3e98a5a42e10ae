"""U-Net with the names of its authors' release; 572 x 572 pixels of one channel become 388 x 388 scores of two."""

from __future__ import annotations

from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L

from . import blocks
from . import zoo_blocks as z

CHANNELS = (64, 128, 256, 512, 1024)
"""Of the five levels, from the image's resolution down to a sixteenth of it."""

DROPPED = (3, 4)
"""Levels that end with a Dropout on the way down."""


def unet() -> dict[str, Any]:
    return {"deploy.prototxt": z.deploy("phseg_v5", (1, 1, 572, 572), _net)}


def _net(n: NetSpec) -> None:
    top, kept = "data", []
    for level, channels in enumerate(CHANNELS):
        top = _two(n, f"d{level}", top, channels)
        if level in DROPPED:
            z.dropout(n, f"dropout_d{level}c", top, 0.5)
        if level < len(CHANNELS) - 1:
            kept.append(top)
            top = z.pool(n, f"pool_d{level}c-{level + 1}a", top, kernel_size=2)
    for level in reversed(range(len(CHANNELS) - 1)):
        top = _up(n, level, top, kept[level])
    z.conv(n, "conv_u0d-score", top, 2, 1, z.XAVIER)


def _two(n: NetSpec, name: str, bottom: str, channels: int) -> str:
    """Two 3x3 convolutions, which lose a border of one pixel each."""
    for start, end in ("ab", "bc") if name[0] == "d" else ("bc", "cd"):
        conv = f"conv_{name}{start}-{end}"
        bottom = z.conv(n, conv, bottom, channels, 3, z.XAVIER)
        blocks.relu(n, f"relu_{name}{end}", bottom)
    return bottom


def _up(n: NetSpec, level: int, bottom: str, kept: str) -> str:
    """Twice the size, with what the way down had at that size, cropped, beside it."""
    channels = CHANNELS[level]
    below = "d4c" if level == len(CHANNELS) - 2 else f"u{level + 1}d"
    name = f"upconv_{below}_u{level}a"
    n[name] = L.Deconvolution(n[bottom], convolution_param={"num_output": channels, "kernel_size": 2, "stride": 2})
    blocks.relu(n, f"relu_u{level}a", name)
    crop, concat = f"crop_d{level}c-d{level}cc", f"concat_d{level}cc_u{level}a-b"
    # The crop is from the middle: half of what the borders on the way down and up have cost.
    n[crop] = L.Crop(n[kept], n[name], axis=2, offset=_border(level))
    n[concat] = L.Concat(n[name], n[crop])
    return _two(n, f"u{level}", concat, channels)


def _border(level: int) -> int:
    """Pixels at `level` between the edge of what the way down kept there and the edge of what came up."""
    border = 4
    for _ in range(len(CHANNELS) - 2 - level):
        # Two pixels for each pair of convolutions on the level below: on the way down, and on the way up.
        border = 2 * (border + 2 + 2)
    return border
