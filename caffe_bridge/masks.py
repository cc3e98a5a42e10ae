"""Resizing, cutting out and comparing instance masks, as MNC does with OpenCV.

A placed mask is a mask of any size together with the box it fills: (x1, y1, x2, y2) in whole pixels, corners inclusive.
Ground truth comes as one padded array `gt_masks` [G, h, w] and, per row, the number of its mask (`index` [N]), that
mask's valid (height, width) (`gt_sizes` [N, 2]) and its box (`gt_boxes` [N, 4]). Everything works on the tensors' own
device.
"""

from __future__ import annotations

import torch

from caffe_bridge.errors import CaffeError

_MAX_PIXELS = 1 << 28


def resize(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Masks [..., H, W] resized to `size` (height, width), as cv2.resize does with INTER_LINEAR on float32.

    Pixel centres are aligned, the border is repeated, and nothing is averaged when shrinking.
    """
    height, width = size
    y0, y1, fy = _taps(torch.arange(height, device=masks.device), masks.shape[-2], height, masks.dtype)
    x0, x1, fx = _taps(torch.arange(width, device=masks.device), masks.shape[-1], width, masks.dtype)
    across = masks.index_select(-1, x0) * (1 - fx) + masks.index_select(-1, x1) * fx
    return across.index_select(-2, y0) * (1 - fy)[:, None] + across.index_select(-2, y1) * fy[:, None]


def _taps(
    position: torch.Tensor, source: int | torch.Tensor, target: int | torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two source pixels each target pixel lies between, and the weight of the second.

    Coordinates are computed in double precision and rounded to float32, as OpenCV does.
    """
    last = torch.as_tensor(source, device=position.device) - 1
    at = ((position.double() + 0.5) * ((last + 1).double() / target) - 0.5).float()
    low = at.floor()
    weight = torch.where((low < 0) | (low >= last), 0, at - low)
    low = torch.minimum(low.long().clamp(min=0), last)
    return low, torch.minimum(low + 1, last), weight.to(dtype)


def _sizes(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Height and width of boxes [N, 4], each [N, 1]."""
    return (boxes[:, 3] - boxes[:, 1] + 1)[:, None], (boxes[:, 2] - boxes[:, 0] + 1)[:, None]


def targets(
    boxes: torch.Tensor,
    gt_masks: torch.Tensor,
    index: torch.Tensor,
    gt_sizes: torch.Tensor,
    gt_boxes: torch.Tensor,
    size: int = 21,
    threshold: float = 0.4,
) -> torch.Tensor:
    """Mask regression targets: what each box [N, 4] sees of its ground-truth mask, resized to size x size.

    Returns booleans [N, size, size]: the resized mask is at least `threshold`. A box that does not meet its mask's box
    gets zeros (MNC's `intersect_mask`).
    """
    gt_height, gt_width = _sizes(gt_boxes)
    gt_height = torch.minimum(gt_height, gt_sizes[:, :1]).clamp(max=gt_masks.shape[1])
    gt_width = torch.minimum(gt_width, gt_sizes[:, 1:]).clamp(max=gt_masks.shape[2])

    def look_up(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        seen = ((y >= 0) & (y < gt_height))[:, :, None] & ((x >= 0) & (x < gt_width))[:, None, :]
        y, x = y.clamp(0, gt_masks.shape[1] - 1), x.clamp(0, gt_masks.shape[2] - 1)
        return gt_masks[index[:, None, None], y[:, :, None], x[:, None, :]].float() * seen

    height, width = (length.clamp(min=1) for length in _sizes(boxes))
    position = torch.arange(size, device=boxes.device)
    y0, y1, fy = _taps(position, height, size, torch.float32)
    x0, x1, fx = _taps(position, width, size, torch.float32)
    offset = boxes - gt_boxes
    y0, y1, x0, x1 = y0 + offset[:, 1:2], y1 + offset[:, 1:2], x0 + offset[:, :1], x1 + offset[:, :1]
    fy, fx = fy[:, :, None], fx[:, None, :]
    upper, lower = (look_up(y, x0) * (1 - fx) + look_up(y, x1) * fx for y in (y0, y1))
    return upper * (1 - fy) + lower * fy >= threshold


def iou(
    masks: torch.Tensor,
    boxes: torch.Tensor,
    gt_masks: torch.Tensor,
    index: torch.Tensor,
    gt_sizes: torch.Tensor,
    gt_boxes: torch.Tensor,
    threshold: float = 0.4,
) -> torch.Tensor:
    """Intersection over union, row by row, of predicted with ground-truth masks: float64 [N].

    Each predicted mask [N, h, w] is resized to its box [N, 4] and counts where it is at least `threshold`. The union
    is that of the whole masks; 0 where the boxes do not meet (MNC's `mask_overlap`).

    Raises:
        CaffeError: a box without pixels, or with more than 2**28.
    """
    present = gt_masks != 0
    area = torch.zeros(len(masks), dtype=torch.int64, device=masks.device)
    gt_area, common = torch.zeros_like(area), torch.zeros_like(area)
    placed = torch.cat([boxes, index[:, None], gt_sizes, gt_boxes], 1).tolist()
    for row, (x1, y1, x2, y2, mask, gt_height, gt_width, gt_x1, gt_y1, gt_x2, gt_y2) in enumerate(placed):
        height, width = y2 - y1 + 1, x2 - x1 + 1
        if min(height, width) < 1 or height * width > _MAX_PIXELS:
            raise CaffeError(f"a mask cannot be resized to a box of {height} x {width} pixels")
        predicted = resize(masks[row], (height, width)) >= threshold
        truth = present[mask, :gt_height, :gt_width]
        area[row], gt_area[row] = predicted.count_nonzero(), truth.count_nonzero()
        left, top = max(x1, gt_x1), max(y1, gt_y1)
        right = min(x2, gt_x2, gt_x1 + truth.shape[1] - 1)
        bottom = min(y2, gt_y2, gt_y1 + truth.shape[0] - 1)
        if left <= right and top <= bottom:
            predicted = predicted[top - y1 : bottom - y1 + 1, left - x1 : right - x1 + 1]
            truth = truth[top - gt_y1 : bottom - gt_y1 + 1, left - gt_x1 : right - gt_x1 + 1]
            common[row] = (predicted & truth).count_nonzero()
    return common.double() / (area + gt_area - common).clamp(min=1)
