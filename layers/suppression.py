"""Greedy non-maximum suppression of many groups of boxes, by SSD's rule and by any other measure of overlap.

Fast R-CNN's rule, with its + 1, is `caffe_bridge.layers.functional.nms`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from caffe_bridge import ssd_boxes
from caffe_bridge.layers import functional  # noqa: F401  registers torch.ops.caffe_bridge.nms

# Powers of two by which boxes grow until + 1 is nothing to them, small enough for areas to be finite.
_SCALES = {torch.float32: 2.0**48, torch.float64: 2.0**400}


def suppress(boxes: torch.Tensor, candidates: torch.Tensor, threshold: float, eta: float = 1.0) -> torch.Tensor:
    """Which boxes survive SSD's suppression: within each group, those whose overlap with every better survivor is at
    most `threshold`.

    Args:
        boxes: [G, K, 4] in fractions of the image, best first in each group.
        candidates: bool [G, K]; the others neither survive nor suppress.
        eta: below 1, multiplies a group's threshold after each survivor while it is above 0.5.

    Returns:
        bool [G, K].

    Note:
        The native operation adds 1 to widths and heights. Boxes scaled by a large power of two do not notice, so that
        it gives SSD's overlaps to the last bit; boxes without an area, which overlap nothing here, are put apart.
    """
    if eta < 1:
        return suppress_by(boxes, candidates, threshold, ssd_boxes.overlaps, eta)
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    apart = torch.tensor([0, 0, -2, -2], dtype=boxes.dtype, device=boxes.device)
    boxes = torch.where((ssd_boxes.area(boxes) > 0)[..., None], boxes, apart) * _SCALES[boxes.dtype]
    kept = torch.zeros_like(candidates)
    for group, (own, wanted) in enumerate(zip(boxes, candidates)):
        rows = wanted.nonzero()[:, 0]
        kept[group, rows] = torch.ops.caffe_bridge.nms(own[rows], threshold, False)
    return kept


def suppress_by(
    boxes: torch.Tensor,
    candidates: torch.Tensor,
    threshold: float,
    overlap: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    eta: float = 1.0,
    inclusive: bool = False,
) -> torch.Tensor:
    """As `suppress`, for boxes of any meaning and any measure of overlap, a survivor of every group at a time.

    Args:
        overlap: gives the overlaps of boxes [..., 4] that broadcast.
        inclusive: drop at an overlap of exactly the threshold, too.
    """
    kept = torch.zeros_like(candidates)
    groups = torch.arange(len(candidates), device=boxes.device)
    limit = boxes.new_full((len(groups), 1), threshold)
    boxes, waiting, worst = ssd_boxes.by_coordinate(boxes), candidates, boxes.new_zeros(candidates.shape)
    while True:
        waiting = waiting & (worst < limit if inclusive else worst <= limit)
        left = waiting.any(1)
        if not bool(left.all()):
            groups, limit, waiting, worst = (values[left] for values in (groups, limit, waiting, worst))
            boxes = ssd_boxes.by_coordinate(boxes[left])
        if not len(groups):
            return kept
        best = waiting.byte().argmax(1)
        kept[groups, best] = True
        rows = torch.arange(len(groups), device=boxes.device)
        waiting[rows, best] = False
        if eta < 1:
            limit = torch.where(limit > 0.5, limit * eta, limit)
        worst = torch.maximum(worst, overlap(boxes[rows, best][:, None], boxes))
