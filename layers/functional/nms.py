"""Greedy non-maximum suppression, with the two rules of Fast R-CNN's CUDA and Cython versions."""

from __future__ import annotations

import math

import numpy as np
import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.functional._library import in_float, operation

# Boxes whose overlaps with all that are left the pure-torch twin computes at a time.
BLOCK = 256


def nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float, inclusive: bool = False) -> torch.Tensor:
    """Keep boxes by falling score, dropping each that overlaps a kept one too much.

    Args:
        boxes (Tensor[n, 4]): (x1, y1, x2, y2), both corners inclusive (a box 0..9 is 10 wide).
        scores (Tensor[n]): scores; equal ones keep the order of the input.
        threshold: intersection over union that suppresses.
        inclusive: suppress at IoU >= threshold, as the Cython version does, instead of > (CUDA, Python).

    Returns:
        Tensor[k] of int64: indices of the kept boxes, by falling score.

    Raises:
        LayerError: wrong shapes or dtypes.
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1] or not boxes.is_floating_point():
        raise LayerError(f"nms needs boxes (n, 4) and scores (n), got {tuple(boxes.shape)} and {tuple(scores.shape)}")
    order = scores.argsort(descending=True, stable=True)
    return order[torch.ops.caffe_bridge.nms(in_float(boxes.detach())[order], threshold, inclusive)]


def _least_suppressing(threshold: float, inclusive: bool, dtype: torch.dtype) -> torch.Tensor:
    rounded = torch.tensor(threshold, dtype=dtype)
    if inclusive and rounded.item() >= threshold:
        return rounded
    return torch.nextafter(rounded, torch.tensor(math.inf, dtype=dtype))


@operation(
    "nms(Tensor boxes, float threshold, bool inclusive) -> Tensor",
    lambda boxes, threshold, inclusive: boxes.new_empty(boxes.shape[0], dtype=torch.bool),
)
def _keep(boxes: torch.Tensor, threshold: float, inclusive: bool) -> torch.Tensor:
    """Which of the boxes, already in order, are kept."""
    least = _least_suppressing(threshold, inclusive, boxes.dtype).to(boxes.device)
    keep = torch.zeros(len(boxes), dtype=torch.bool)
    left = torch.arange(len(boxes), device=boxes.device)
    while len(left):
        suppresses = (_overlaps(boxes[left[:BLOCK]], boxes[left]) >= least).triu(1).cpu().numpy()
        suppressed = np.zeros(len(left), dtype=bool)
        for row, others in enumerate(suppresses):
            if not suppressed[row]:
                suppressed |= others
        block = left[:BLOCK].cpu()
        keep[block] = torch.from_numpy(~suppressed[: len(block)])
        left = left[BLOCK:][torch.from_numpy(~suppressed[BLOCK:]).to(boxes.device)]
    return keep.to(boxes.device)


def _overlaps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union in the boxes' own precision, in the order of operations of csrc/nms.h."""
    sides = torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2]) + 1
    both = sides.clamp(min=0).prod(2)
    area_a, area_b = ((box[:, 2] - box[:, 0] + 1) * (box[:, 3] - box[:, 1] + 1) for box in (a, b))
    return both / (area_a[:, None] + area_b - both)
