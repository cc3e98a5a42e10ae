"""Weights and inputs anyone can make without a download, by the rule the reference recordings were made with.

Every parameter `k` of layer `L` is drawn from a generator seeded by crc32("L/k"): weights are normal with deviation
GAIN * sqrt(2 / fan_in), biases 0; a layer `L_ext` draws as `L` does. A net filled so is untrained: it finds nothing in
a picture, but it has one right answer, which a recording of the original program holds.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from caffe_bridge.net import Net

GAIN = {
    "conv1_1": 1 / 64,
    "rpn_bbox_pred": 0.2,
    "bbox_pred": 0.1,
    "rpn_cls_score": 0.5,
    "mask_pred": 1.5,
    "cls_score": 2.0,
    "seg_cls_score": 2.0,
}
IMAGE_SCALE = 1.6  # the im_info of the recordings
FIRST_STAGE = ("rpn_cls_prob_reshape", "rpn_bbox_pred")  # compared element by element
ROI_BLOBS = (  # compared row by row, where the RoIs agree
    "mask_proposal",
    "mask_prob",
    "cls_prob",
    "seg_cls_prob",
    "bbox_pred",
    "rois_ext",
    "mask_proposal_ext",
    "seg_cls_prob_ext",
)
_DRAWS = 2**20  # elements drawn at a time; the generator's stream does not depend on it


@torch.no_grad()
def fill(net: Net) -> None:
    """Set every parameter of the net by the rule."""
    for name, parameters in net.params.items():
        for k, parameter in enumerate(parameters):
            if net.graph.owners[name][k] != (name, k):
                continue
            if parameter.ndim == 1:
                parameter.zero_()
                continue
            base = name.removesuffix("_ext")
            deviation = np.float32(GAIN.get(base, 1.0) * np.sqrt(2.0 / math.prod(parameter.shape[1:])))
            generator = np.random.RandomState(zlib.crc32(f"{base}/{k}".encode()) % 2**31)
            flat = parameter.view(-1)
            for begin in range(0, flat.numel(), _DRAWS):
                part = flat[begin : begin + _DRAWS]
                part.copy_(torch.from_numpy(generator.standard_normal(len(part)).astype(np.float32) * deviation))


def inputs(height: int, width: int) -> dict[str, torch.Tensor]:
    """The recordings' image, smoothed noise [1, 3, height, width], and its im_info [1, 3]."""
    data: np.ndarray = (np.random.RandomState(1).standard_normal((1, 3, height, width)) * 50).astype(np.float32)
    for axis in (2, 3):
        for _ in range(8):
            data = (np.roll(data, 1, axis) + data + np.roll(data, -1, axis)) / 3
    return {
        "data": torch.from_numpy((data * 8).astype(np.float32)),
        "im_info": torch.tensor([[height, width, IMAGE_SCALE]], dtype=torch.float32),
    }


@dataclass(frozen=True)
class Verdict:
    """How one blob compares with the recording."""

    blob: str
    passed: bool
    error: float  # greatest (first stage, RoIs in pixels) or median over rows (later blobs)
    text: str


def compare(got: Mapping[str, np.ndarray], recorded: Mapping[str, np.ndarray]) -> Iterator[Verdict]:
    """Compare a net's blobs with a recording.

    Rounding moves single RoIs across the thresholds of the proposal stage, so RoIs are matched to the nearest recorded
    one; 99 % must lie within 0.05 pixels, and of the rows that follow from those 99 % within 0.002 (rois_ext: 0.5
    pixels).
    """
    for blob in FIRST_STAGE:
        if blob in recorded:
            expected = recorded[blob]
            if got[blob].shape != expected.shape:
                yield Verdict(blob, False, math.inf, f"shape {got[blob].shape}, expected {expected.shape}")
                continue
            error = float(np.abs(got[blob] - expected).max() / max(1.0, np.abs(expected).max()))
            yield Verdict(blob, error <= 1e-3, error, "greatest error, at most 1e-03")
    rois, expected = got["rois"][:, 1:], recorded["rois"][:, 1:]
    if len(rois) == 0:
        yield Verdict("rois", False, math.inf, f"none, expected {len(expected)}")
        return
    distances = np.abs(expected[:, None] - rois[None]).max(2)
    nearest, distance = distances.argmin(1), distances.min(1)
    near = distance < 0.05
    passed = bool(near.mean() >= 0.99) and len(rois) == len(expected)
    error = float(distance[near].max(initial=0))
    yield Verdict("rois", passed, error, f"{near.sum()} of {len(expected)} within 0.05 px ({len(rois)} proposed)")
    for blob in ROI_BLOBS:
        if blob in recorded:
            ours = got[blob].reshape(len(rois), -1)[nearest[near]]
            errors = np.abs(ours - recorded[blob].reshape(len(expected), -1)[near]).max(1)
            tolerance = 0.5 if blob == "rois_ext" else 2e-3
            share = float((errors <= tolerance).mean()) if len(errors) else 0.0
            median = float(np.median(errors)) if len(errors) else math.inf
            yield Verdict(blob, share >= 0.99, median, f"median error; {share:.1%} of rows within {tolerance:g}")
