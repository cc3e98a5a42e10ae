"""Matching of boxes with ground truth, as SSD's MultiBoxLoss does it."""

from __future__ import annotations

import torch

from caffe_bridge import ssd_boxes
from caffe_bridge.layers import ranks

# Overlaps up to this count as none.
LEAST_OVERLAP = 1e-6


def group_rows(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The groups that rows [n] belong to, in rising order [B], and each one's rows in theirs, int64 [B, G] with -1."""
    found, which, counts = groups.unique(return_inverse=True, return_counts=True)
    order = which.argsort(stable=True)
    members = order.new_full((len(found), int(counts.max()) if len(found) else 0), -1)
    members[which[order], ranks.places(which[order])] = order
    return found, members


def match(
    boxes: torch.Tensor,
    truths: torch.Tensor,
    valid: torch.Tensor,
    *,
    per_prediction: bool,
    threshold: float,
    ignored: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Match boxes with the ground truths of their group.

    The pair with the largest overlap is matched, then the largest of the remaining boxes and ground truths, and so on
    until no ground truth has an overlap left. `per_prediction`, boxes still free then take the ground truth they
    overlap most, if by at least `threshold`.

    Args:
        boxes: [B, P, 4], or [1, P, 4] for all groups alike.
        truths: [B, G, 4].
        valid: bool [B, G], false for padding.
        ignored: bool [B, P] or [1, P], boxes that match nothing.

    Returns:
        int64 [B, P], the number of the ground truth, -1 for none, -2 for ignored; and the box's overlap with it, or
        the largest of all [B, P].
    """
    groups, count = len(truths), boxes.shape[1]
    overlap = ssd_boxes.overlaps(ssd_boxes.by_coordinate(truths)[:, :, None], ssd_boxes.by_coordinate(boxes)[:, None])
    usable = valid[:, :, None] & (overlap > LEAST_OVERLAP)
    index = torch.full((groups, count), -1, device=boxes.device)
    if ignored is not None:
        usable &= ~ignored[:, None]
        index[ignored.expand(groups, count)] = -2
    if not usable.numel():
        return index, overlap.new_zeros(groups, count)
    overlap = torch.where(usable, overlap, 0)
    best, truth = overlap.max(1)
    free = torch.where(index == -1, best, 0)
    _match_pairs(overlap, index, best)
    if per_prediction:
        index = torch.where((index == -1) & (free > 0) & (free >= threshold), truth, index)
    return index, best


def _match_pairs(overlap: torch.Tensor, index: torch.Tensor, best: torch.Tensor) -> None:
    """The pairs of largest overlap [B, G, P], one after the other, into `index` and `best` [B, P].

    Of equal overlaps that of the first box counts, then that of the first ground truth.
    """
    largest, box = overlap.max(2)
    groups = torch.arange(len(overlap), device=overlap.device)
    for _ in range(overlap.shape[1]):
        top = largest.amax(1, keepdim=True)
        active = top[:, 0] > 0
        if not bool(active.any()):
            return
        truth = box.masked_fill(largest < top, overlap.shape[2]).argmin(1)
        rows, truth = groups[active], truth[active]
        taken = box[rows, truth]
        index[rows, taken] = truth
        best[rows, taken] = top[active, 0]
        largest[rows, truth] = 0
        # Other ground truths that had their largest overlap with a box now taken look for the next one.
        group, other = ((box[rows] == taken[:, None]) & (largest[rows] > 0)).nonzero(as_tuple=True)
        group = rows[group]
        remaining = overlap[group, other].masked_fill(index[group] != -1, 0)
        if len(group):
            largest[group, other], box[group, other] = remaining.max(1)
