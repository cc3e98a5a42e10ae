"""Greedy non-maximum suppression of many groups at once, for the overlap rules of SSD and YOLO.

Fast R-CNN's rule, with its + 1, is `caffe_bridge.layers.functional.nms`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from caffe_bridge.ssd_boxes import by_coordinate


def suppress(
    boxes: torch.Tensor,
    candidates: torch.Tensor,
    threshold: float,
    overlap: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    eta: float = 1.0,
    inclusive: bool = False,
) -> torch.Tensor:
    """Which boxes survive: within each group, those that overlap no better one that survived too much.

    Args:
        boxes: [G, K, 4], best first in each group.
        candidates: bool [G, K]; the others neither survive nor suppress.
        threshold: overlap above which a box is dropped.
        overlap: gives the overlaps of boxes [..., 4] that broadcast.
        eta: below 1, multiplies a group's threshold after each survivor while it is above 0.5.
        inclusive: drop at an overlap of exactly the threshold, too.

    Returns:
        bool [G, K].
    """
    kept = torch.zeros_like(candidates)
    groups = torch.arange(len(candidates), device=boxes.device)
    limit = boxes.new_full((len(groups), 1), threshold)
    boxes, waiting, worst = by_coordinate(boxes), candidates, boxes.new_zeros(candidates.shape)
    while True:
        waiting = waiting & (worst < limit if inclusive else worst <= limit)
        left = waiting.any(1)
        if not bool(left.all()):
            groups, limit, waiting, worst = (values[left] for values in (groups, limit, waiting, worst))
            boxes = by_coordinate(boxes[left])
        if not len(groups):
            return kept
        best = waiting.byte().argmax(1)
        kept[groups, best] = True
        rows = torch.arange(len(groups), device=boxes.device)
        waiting[rows, best] = False
        if eta < 1:
            limit = torch.where(limit > 0.5, limit * eta, limit)
        worst = torch.maximum(worst, overlap(boxes[rows, best][:, None], boxes))
