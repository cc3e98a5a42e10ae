"""Mask voting at test time, as MNC does it on the GPU (arXiv:1512.04412, section 3.6): NMS, then merging of masks."""

from __future__ import annotations

import math

import torch

from caffe_bridge.boxes import overlaps
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.functional import _rois
from caffe_bridge.layers.functional._library import in_float, operation
from caffe_bridge.layers.functional.nms import nms

# A summed pixel belongs to the merged mask above this value.
MASK_THRESHOLD = 0.4


def mask_voting(
    boxes: torch.Tensor,
    masks: torch.Tensor,
    scores: torch.Tensor,
    image_size: tuple[int, int],
    max_per_image: int = 100,
    nms_threshold: float = 0.3,
    iou_threshold: float = 0.5,
    binarize_threshold: float = MASK_THRESHOLD,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Turn the boxes and masks of one image into detections, merging the masks of overlapping boxes.

    Args:
        boxes (Tensor[n, 4]): (x1, y1, x2, y2) in original-image pixels, corners inclusive.
        masks (Tensor[n, 1, M, M]): continuous masks, each relative to its box.
        scores (Tensor[n, K]): class scores, class 0 the background.
        image_size: (height, width) of the original image.
        max_per_image: survivors per class, and roughly over all classes (ties with the last are kept).
        nms_threshold: a box survives in a class unless it overlaps a better one by more.
        iou_threshold: all boxes (of any class) that overlap a survivor by at least this much vote on its mask,
            with their scores of the survivor's class as weights.
        binarize_threshold: a pixel of the weighted sum counts above this value.

    Returns:
        boxes per class (Tensor[k, 5]: the tight box of the merged mask, in whole pixels, and the survivor's score)
        and masks per class (Tensor[k, 1, M, M], continuous, relative to that box), both lists starting at class 1.
        Where no pixel counts, the box is the image's centre.

    Memory does not grow with the size of the image. Weights of voters that are all 0 merge to an empty mask.

    Raises:
        LayerError: shapes that do not fit each other, boxes that are not finite, an empty image.
    """
    _check(boxes, masks, scores)
    height, width = _rois.pair(image_size, "image size")
    boxes, masks, scores = (in_float(tensor.detach()) for tensor in (boxes, masks, scores))
    masks, classes = masks.to(boxes.dtype), scores.shape[1]
    survivors = [nms(boxes, scores[:, c], nms_threshold)[:max_per_image] for c in range(1, classes)]
    survivors = _best(survivors, scores, max_per_image)
    counts = [len(kept) for kept in survivors]
    if not sum(counts):
        return [boxes.new_zeros(0, 5) for _ in counts], [masks.new_zeros(0, *masks.shape[1:]) for _ in counts]
    kept = torch.cat(survivors)
    classes_of = torch.repeat_interleave(torch.arange(1, classes), torch.tensor(counts)).to(boxes.device)
    votes = overlaps(boxes[kept], boxes) >= iou_threshold
    group, voters = votes.nonzero(as_tuple=True)
    weights = scores[voters, classes_of[group]]
    totals = scores.new_zeros(len(kept)).index_add_(0, group, weights)[group]
    weights = torch.where(totals != 0, weights / totals, 0).to(boxes.dtype)
    merged, tight = torch.ops.caffe_bridge.merge_masks(
        boxes, masks, voters, votes.sum(1).cumsum(0), weights, height, width, binarize_threshold
    )
    found = torch.cat([tight.to(scores.dtype), scores[kept, classes_of, None]], 1)
    return list(found.split(counts)), list(merged.split(counts))


def _check(boxes: torch.Tensor, masks: torch.Tensor, scores: torch.Tensor) -> None:
    count = boxes.shape[0] if boxes.dim() else 0
    square = masks.dim() == 4 and masks.shape == (count, 1, masks.shape[2], masks.shape[2]) and masks.shape[2] > 0
    if boxes.shape != (count, 4) or not square or scores.dim() != 2 or scores.shape[0] != count or not scores.shape[1]:
        raise LayerError(
            "mask voting needs boxes (n, 4), masks (n, 1, M, M) and scores (n, K), got "
            f"{tuple(boxes.shape)}, {tuple(masks.shape)} and {tuple(scores.shape)}"
        )
    finite = torch.isfinite(boxes).all(1)
    if not bool(finite.all()):
        raise LayerError(f"box {int(finite.logical_not().nonzero()[0])} is not finite")


def _best(survivors: list[torch.Tensor], scores: torch.Tensor, limit: int) -> list[torch.Tensor]:
    """The survivors whose score reaches the limit-th best over all classes."""
    values = [scores[kept, c] for c, kept in enumerate(survivors, 1)]
    ranked = torch.cat([*values, scores.new_zeros(0)]).sort(descending=True).values
    if not len(ranked) or limit <= 0:
        return [kept[:0] for kept in survivors]
    least = ranked[min(limit, len(ranked)) - 1]
    return [kept[value >= least] for kept, value in zip(survivors, values, strict=True)]


def _fake(boxes, masks, members, ends, weights, height, width, threshold):
    groups = ends.shape[0]
    return masks.new_empty(groups, *masks.shape[1:]), boxes.new_empty(groups, 4, dtype=torch.int32)


@operation(
    "merge_masks(Tensor boxes, Tensor masks, Tensor members, Tensor ends, Tensor weights, int height, int width,"
    " float threshold) -> (Tensor, Tensor)",
    _fake,
)
def _merge_masks(
    boxes: torch.Tensor,
    masks: torch.Tensor,
    members: torch.Tensor,
    ends: torch.Tensor,
    weights: torch.Tensor,
    height: int,
    width: int,
    threshold: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the drawn masks of each group (members up to its end), find the tight box, resize it to a mask."""
    size = masks.shape[2]
    merged = masks.new_zeros(len(ends), 1, size, size)
    tight = torch.zeros(len(ends), 4, dtype=torch.int32, device=boxes.device)
    for i, end in enumerate(ends.tolist()):
        group = slice(int(ends[i - 1]) if i else 0, end)
        drawn = [_Drawn(boxes[m], masks[m, 0], w) for m, w in zip(members[group].tolist(), weights[group])]
        box = _tight_box(drawn, height, width, threshold)
        at = box.to(boxes)
        step = torch.arange(size, dtype=boxes.dtype, device=boxes.device)
        x = at[0] + step * ((at[2] - at[0] + 1) / size)
        y = at[1] + step * ((at[3] - at[1] + 1) / size)
        merged[i, 0], tight[i] = _resized(drawn, y, x, height, width), box
    return merged, tight


class _Drawn:
    """A weighted mask drawn into its box; evaluated on grids of image rows and columns."""

    def __init__(self, box: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor):
        self.box, self.mask, self.weight, self.size = box, mask, weight, mask.shape[-1]
        x1, y1, x2, y2 = box.tolist()
        self.columns, self.rows = (math.ceil(x1), math.floor(x2) + 1), (math.ceil(y1), math.floor(y2) + 1)

    def _axis(self, pixels: torch.Tensor, start: torch.Tensor, end: torch.Tensor):
        position = (pixels - start) * (self.size / (end - start + 1))
        cell = position.clamp(0, self.size - 1).long()
        return (pixels >= start) & (pixels <= end), cell, position - cell

    def on(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Weighted values at rows x columns; 0 outside the box."""
        in_x, x, dx = self._axis(columns, self.box[0], self.box[2])
        in_y, y, dy = self._axis(rows, self.box[1], self.box[3])
        y, dy = y[:, None], dy[:, None]
        value = _bilinear(self.mask, y, x, dy, dx)
        return torch.where(in_y[:, None] & in_x, value * self.weight, 0)


def _bilinear(grid: torch.Tensor, y: torch.Tensor, x: torch.Tensor, dy: torch.Tensor, dx: torch.Tensor) -> torch.Tensor:
    """Values between cells of a grid; those in its last row or column are taken without interpolation."""
    last_y, last_x = grid.shape[0] - 1, grid.shape[1] - 1
    below, right = (y + 1).clamp(max=last_y), (x + 1).clamp(max=last_x)
    mixed = (1 - dx) * (1 - dy) * grid[y, x] + dx * (1 - dy) * grid[y, right]
    mixed = mixed + (1 - dx) * dy * grid[below, x] + dx * dy * grid[below, right]
    return torch.where((y == last_y) | (x == last_x), grid[y, x], mixed)


def _tight_box(drawn: list[_Drawn], height: int, width: int, threshold: float) -> torch.Tensor:
    """(x1, y1, x2, y2) of the summed pixels above the threshold, or the image's centre; a strip of rows at a time."""
    visible = [(d, *_clipped(d.columns, width), *_clipped(d.rows, height)) for d in drawn]
    visible = [(d, x0, x1, y0, y1) for d, x0, x1, y0, y1 in visible if x0 < x1 and y0 < y1]
    found = []
    if visible:
        _, lefts, rights, tops, bottoms = zip(*visible)
        left, right, top = min(lefts), max(rights), min(tops)
        for part in _rois.chunks(max(bottoms) - top, right - left):
            first, last = top + part.start, top + part.stop
            total = drawn[0].mask.new_zeros(last - first, right - left)
            for d, x0, x1, y0, y1 in visible:
                y0, y1 = max(y0, first), min(y1, last)
                if y0 < y1:
                    rows, columns = (
                        torch.arange(*ends, device=total.device).to(total) for ends in ((y0, y1), (x0, x1))
                    )
                    total[y0 - first : y1 - first, x0 - left : x1 - left] += d.on(rows, columns)
            y, x = (total > threshold).nonzero(as_tuple=True)
            if len(y):
                found.append(torch.stack([x.min() + left, y[0] + first, x.max() + left, y[-1] + first]))
    if not found:
        return torch.tensor([width // 2, height // 2] * 2)
    boxes = torch.stack(found)
    return torch.cat([boxes[:, :2].amin(0), boxes[:, 2:].amax(0)])


def _clipped(ends: tuple[int, int], size: int) -> tuple[int, int]:
    return max(ends[0], 0), min(ends[1], size)


def _resized(drawn: list[_Drawn], y: torch.Tensor, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The summed masks at fractional rows and columns of the image."""
    y0, x0 = y.clamp(0, height - 1).long(), x.clamp(0, width - 1).long()
    pairs = [torch.stack([low, (low + 1).clamp(max=end - 1)], 1).flatten() for low, end in ((y0, height), (x0, width))]
    total = sum((d.on(pairs[0].to(y.dtype), pairs[1].to(x.dtype)) for d in drawn), y.new_zeros(1, 1))
    total = total.expand(2 * len(y), 2 * len(x))
    at00, at01, at10, at11 = (total[i::2, j::2] for i in (0, 1) for j in (0, 1))
    dy, dx = (y - y0)[:, None], x - x0
    mixed = (1 - dx) * (1 - dy) * at00 + dx * (1 - dy) * at01 + (1 - dx) * dy * at10 + dx * dy * at11
    return torch.where((y0 == height - 1)[:, None] | (x0 == width - 1), at00, mixed)
