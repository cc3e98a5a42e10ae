"""Regions of an image: proposals, their pooling and their refinement (Fast and Faster R-CNN, R-FCN, MNC).

RoIs are rows (batch index, x1, y1, x2, y2) in pixels of the net's input, both corners inclusive.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from caffe_bridge.convert.torch_export.parts.operators import caffe_operator, rows_of_data


def round_away(values):
    """Rounding of halves away from zero."""
    return values.sign() * (values.abs() + 0.5).floor()


def empty_regions(features, rois, size, *_):
    return features.new_empty(rois.shape[0], features.shape[1], *size)


@caffe_operator("(Tensor features, Tensor rois, int[] size, float scale) -> Tensor", empty_regions)
def roi_pooling(features, rois, size, scale):
    """Maxima of a grid of bins over each RoI, (R, C, *size); bins outside the map are 0."""
    rois = rois.flatten(1)
    height, width = features.shape[2:]
    top = features.new_zeros(len(rois), features.shape[1], *size)
    corners = round_away(rois[:, 1:] * scale)

    def edges(start, end, bins, length):
        step = (end - start + 1).clamp(min=1) / bins
        index = torch.arange(bins, dtype=step.dtype, device=step.device)
        first, last = (index * step).floor() + start, ((index + 1) * step).ceil() + start
        return [edge.clamp(0, length).long().tolist() for edge in (first, last)]

    for r, (x1, y1, x2, y2) in enumerate(corners.unbind()):
        image = features[int(rois[r, 0])]
        rows, columns = zip(*edges(y1, y2, size[0], height)), list(zip(*edges(x1, x2, size[1], width)))
        for i, (low, high) in enumerate(rows):
            if low >= high:
                continue
            line = image[:, low:high].amax(1)
            for j, (left, right) in enumerate(columns):
                if left < right:
                    top[r, :, i, j] = line[:, left:right].amax(1)
    return top


def empty_groups(features, rois, outputs, group, *_):
    return features.new_empty(rois.shape[0], outputs, group, group)


@caffe_operator("(Tensor features, Tensor rois, int outputs, int group, float scale) -> Tensor", empty_groups)
def psroi_pooling(features, rois, outputs, group, scale):
    """Means of a grid of bins over each RoI, each bin over channels of its own, (R, outputs, group, group)."""
    rois = rois.flatten(1)
    maps = features.unflatten(1, (outputs, group, group))
    top = features.new_zeros(len(rois), outputs, group, group)

    def edges(first, last, length):
        start, end = round_away(first) * scale, (round_away(last) + 1) * scale
        step = (end - start).clamp(min=0.1) / group
        index = torch.arange(group, dtype=step.dtype, device=step.device)
        low, high = (index * step + start).floor(), ((index + 1) * step + start).ceil()
        return [edge.clamp(0, length).long().tolist() for edge in (low, high)]

    for r, (image, x1, y1, x2, y2) in enumerate(rois.unbind()):
        rows = list(zip(*edges(y1, y2, features.shape[2])))
        columns = list(zip(*edges(x1, x2, features.shape[3])))
        for i, (low, high) in enumerate(rows):
            for j, (left, right) in enumerate(columns):
                if low < high and left < right:
                    top[r, :, i, j] = maps[int(image), :, i, j, low:high, left:right].mean((1, 2))
    return top


@caffe_operator("(Tensor features, Tensor rois, int[] size, float scale) -> Tensor", empty_regions)
def roi_warping(features, rois, size, scale):
    """Bilinear samples of a grid over each RoI, (R, C, *size); the grid begins at the RoI's near corner."""
    rois = rois.flatten(1)
    corners = round_away(rois[:, 1:] * scale)

    def samples(start, end, count, length):
        step = (end - start).clamp(min=0) / count
        place = start + torch.arange(count, dtype=step.dtype, device=step.device) * step
        inside = (place >= -0.5) & (place <= length - 0.5)
        place = place.clamp(0, length - 1)
        low = place.long().clamp(max=length - 1)
        share = place - low
        rows = torch.zeros(count, length, dtype=step.dtype, device=step.device)
        rows.scatter_(1, low[:, None], (1 - share)[:, None])
        rows.scatter_add_(1, (low + 1).clamp(max=length - 1)[:, None], share[:, None])
        return rows * inside[:, None]

    top = features.new_zeros(len(rois), features.shape[1], *size)
    for r, (x1, y1, x2, y2) in enumerate(corners.unbind()):
        rows = samples(y1, y2, size[0], features.shape[2])
        columns = samples(x1, x2, size[1], features.shape[3])
        top[r] = rows @ features[int(rois[r, 0])] @ columns.T
    return top


def decode_boxes(boxes, deltas):
    """Boxes moved and grown by regression outputs (dx, dy, dw, dh)."""
    size = boxes[:, 2:] - boxes[:, :2] + 1
    centre = deltas[:, :2] * size + (boxes[:, :2] + 0.5 * size)
    half = 0.5 * (deltas[:, 2:].exp() * size)
    return torch.cat([centre - half, centre + half], 1)


def clip_boxes(boxes, height, width):
    """Boxes moved into an image."""
    limits = boxes.new_tensor([width - 1, height - 1] * 2).clamp(min=0)
    return torch.minimum(boxes.clamp(min=0), limits)


def keep_best(boxes, threshold, inclusive=False):
    """Places of the boxes, best first, that overlap no better one among them by more than a threshold."""
    left, kept = torch.arange(len(boxes), device=boxes.device), []
    area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        near, far = torch.maximum(boxes[best, :2], boxes[left, :2]), torch.minimum(boxes[best, 2:], boxes[left, 2:])
        both = (far - near + 1).clamp(min=0).prod(1)
        overlap = both / (area[best] + area[left] - both)
        left = left[overlap < threshold] if inclusive else left[overlap <= threshold]
    return torch.stack(kept) if kept else left


def empty_proposals(scores, deltas, im_info, anchors, results, *_):
    count = rows_of_data()
    shapes = {"rois": (count, 5), "scores": (count,), "score_column": (count, 1), "numbers": (1, count)}
    return [scores.new_empty(shapes[name]) for name in results]


@caffe_operator(
    "(Tensor scores, Tensor deltas, Tensor im_info, Tensor anchors, str[] results, float stride, float min_size, "
    "int before, int after, float threshold, bool inclusive, bool drop_small) -> Tensor[]",
    empty_proposals,
)
def proposals(
    scores, deltas, im_info, anchors, results, stride, min_size, before, after, threshold, inclusive, drop_small
):
    """Boxes that a region proposal network makes of its anchors; see `Proposals`."""
    height, width, *scale = im_info.flatten().tolist()
    scale = scale[:1] + scale[-1:]
    count = len(anchors)
    y, x = (torch.arange(n, dtype=deltas.dtype, device=deltas.device) * stride for n in scores.shape[2:])
    y, x = torch.meshgrid(y, x, indexing="ij")
    cells = (anchors + torch.stack([x, y, x, y], -1)[:, :, None]).reshape(-1, 4)
    moved = decode_boxes(cells, deltas.permute(0, 2, 3, 1).reshape(-1, 4))
    boxes = clip_boxes(moved, height, width)
    score = scores[:, count:].permute(0, 2, 3, 1).reshape(-1)
    least = boxes.new_tensor([scale[-1], scale[0]]) * min_size
    large = (boxes[:, 2:] - boxes[:, :2] + 1 >= least).all(1)
    if drop_small:
        candidates = large.nonzero()[:, 0]
        if not len(candidates):
            candidates = score.argmax()[None]
    else:
        score, candidates = score * large, torch.arange(len(score), device=score.device)
    order = candidates[score[candidates].argsort(descending=True, stable=True)]
    order = order[:before] if before > 0 else order
    kept = order[keep_best(boxes[order], threshold, inclusive)]
    kept = kept[:after] if after > 0 else kept
    chosen = score[kept]
    made = {
        "rois": F.pad(boxes[kept], (1, 0)),
        "scores": chosen,
        "score_column": chosen[:, None].clone(),
        "numbers": kept[None].to(boxes.dtype),
    }
    return [made[name] for name in results]


class Proposals(nn.Module):
    """Boxes that a region proposal network makes of its anchors, best first.

    Inputs: probabilities (1, 2 * anchors, H, W), background first, regression outputs (1, 4 * anchors, H, W) and
    im_info.

    Args:
        anchors: (x1, y1, x2, y2) around cell (0, 0) in pixels.
        results: what to return: "rois" (n, 5), "scores" (n,) or "score_column" (n, 1), anchor "numbers" (1, n).
        stride: pixels per cell.
        min_size: of a side, in pixels of the image before scaling; smaller boxes are dropped.
        before, after: how many boxes go into the suppression and come out of it; 0 or less for all.
        threshold, inclusive: the overlap that suppresses.
        drop_small: False to let small boxes score 0 instead.
    """

    anchors: torch.Tensor

    def __init__(
        self,
        anchors,
        results,
        stride,
        min_size,
        before,
        after,
        threshold,
        inclusive=False,
        drop_small=True,
        layer="",
    ):
        super().__init__()
        self.register_buffer("anchors", torch.tensor(anchors), persistent=False)
        self.results, self.layer = results, layer
        self.settings = (stride, min_size, before, after, threshold, inclusive, drop_small)

    def forward(self, scores, deltas, im_info):
        found = proposals(scores, deltas, im_info, self.anchors, self.results, *self.settings, layer=self.layer)
        return found[0] if len(found) == 1 else found


@caffe_operator(
    "(Tensor rois, Tensor outputs, Tensor scores, Tensor im_info) -> Tensor",
    lambda rois, *_: torch.empty_like(rois),
)
def refine_rois(rois, outputs, scores, im_info):
    """RoIs moved by the regression outputs of their best class."""
    rows = torch.arange(len(outputs), device=outputs.device)
    deltas = outputs.unflatten(1, (-1, 4))[rows, scores.argmax(1)]
    height, width = im_info[0, :2].tolist()
    return F.pad(clip_boxes(decode_boxes(rois[:, 1:], deltas), height, width), (1, 0))


def for_torch(images, old_means, means, deviations):
    """Images in blue, green, red less their means, as networks expect them that were trained in Torch."""
    old_means, means, deviations = (
        images.new_tensor(values, dtype=torch.float64).reshape(1, 3, 1, 1) for values in (old_means, means, deviations)
    )
    return (((images + old_means).flip(1) / 255 - means) / deviations).to(images.dtype)
