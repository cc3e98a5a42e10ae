"""What the tests of data layers share."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch

from caffe_bridge.layers.base import Layer


def write_images(folder: Path, *sizes: tuple[int, int], name: str = "{}.png") -> list[np.ndarray]:
    """Random images (height, width, 3), BGR, in numbered files."""
    random = np.random.default_rng(7)
    images = [random.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]
    for i, image in enumerate(images):
        assert cv2.imwrite(str(folder / name.format(i)), image)
    return images


def run(layer: Layer, passes: int) -> list[list[torch.Tensor]]:
    """The tops of some forward passes."""
    return [list(layer()) for _ in range(passes)]


def check_resuming(layer: Layer, other: Layer, passes: int = 3) -> None:
    """`other`, of the same definition, goes on as `layer` does from where it stands now."""
    other.set_stream_state(json.loads(json.dumps(layer.stream_state())))
    for mine, theirs in zip(run(layer, passes), run(other, passes)):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
