"""MNC's region proposal layer: boxes from the RPN's scores and regression outputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from caffe_bridge import boxes
from caffe_bridge.config import cfg
from caffe_bridge.errors import LayerError
from caffe_bridge.layers import cascade
from caffe_bridge.layers import functional as F
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register_python


def per_anchor(blob: torch.Tensor, columns: int) -> torch.Tensor:
    """A blob (1, A * columns, H, W) as rows (h, w, a) of `columns` values."""
    return blob.permute(0, 2, 3, 1).reshape(-1, columns)


def select(proposals: torch.Tensor, scores: torch.Tensor, min_size: float, phase: str) -> torch.Tensor:
    """Row numbers of the proposals [N, 4] to keep, by falling score [N].

    Boxes at least `min_size` scaled-image pixels wide and high, the best RPN_PRE_NMS_TOP_N of them, after
    non-maximum suppression the best RPN_POST_NMS_TOP_N; limits of 0 or less keep all. Equal scores keep their order.
    Where no box is large enough, the one with the highest score is kept, so that the net behind has a RoI to work on.
    """
    settings = cfg[phase]
    keep = boxes.filter_small(proposals, min_size)
    if not len(keep):
        return scores.argmax()[None]
    if 0 < settings.RPN_PRE_NMS_TOP_N < len(keep):
        keep = keep[scores[keep].sort(descending=True, stable=True).indices[: settings.RPN_PRE_NMS_TOP_N]]
    kept = F.nms(proposals[keep], scores[keep], settings.RPN_NMS_THRESH, inclusive=not cfg.USE_GPU_NMS)
    if settings.RPN_POST_NMS_TOP_N > 0:
        kept = kept[: settings.RPN_POST_NMS_TOP_N]
    return keep[kept]


class Chosen(NamedTuple):
    """The proposals [n, 4] for an image, by falling score.

    Attributes:
        numbers: (h * W + w) * A + a of the anchor each came from [n].
        anchors: these anchors.
        decoded, boxes: the proposals before and after clipping to the image.
        scores: their foreground probability [n].
    """

    numbers: torch.Tensor
    anchors: torch.Tensor
    decoded: torch.Tensor
    boxes: torch.Tensor
    scores: torch.Tensor


def check_shapes(anchors: int, scores: Shape, deltas: Shape) -> None:
    """Raise LayerError unless these are the shapes of an RPN's outputs for one image with that many anchors a cell."""
    if len(scores) != 4 or scores[0] != 1:
        raise LayerError(f"takes the scores of one image, (1, {2 * anchors}, H, W), not {tuple(scores)}")
    if scores[1] != 2 * anchors or tuple(deltas) != (1, 4 * anchors, *scores[2:]):
        raise LayerError(
            f"with {anchors} anchors scores have {2 * anchors} and deltas {4 * anchors} channels over the same cells, "
            f"not {tuple(scores)} and {tuple(deltas)}"
        )


@torch.no_grad()
def propose(
    scores: torch.Tensor, deltas: torch.Tensor, im_info: torch.Tensor, cell: np.ndarray, stride: float, phase: str
) -> Chosen:
    """Decode an RPN's outputs, clip the boxes to the image and `select` among them.

    Args:
        scores: background and foreground probabilities (1, 2A, H, W).
        deltas: regression outputs (1, 4A, H, W).
        im_info: (1, 3).
        cell: the anchors around cell (0, 0), [A, 4].
        stride: scaled-image pixels per cell.

    Raises:
        LayerError: other shapes, or NaN.
    """
    check_shapes(len(cell), tuple(scores.shape), tuple(deltas.shape))
    cascade.check_numbers(scores=scores, deltas=deltas)
    *image_size, scale = cascade.image_info(im_info)
    base = torch.tensor(cell, dtype=deltas.dtype, device=deltas.device)
    anchors = boxes.shifted_anchors(base, scores.shape[2], scores.shape[3], stride)
    decoded = boxes.decode(anchors, per_anchor(deltas, 4))
    proposals = boxes.clamp(decoded, image_size)
    foreground = per_anchor(scores[:, len(cell) :], 1)[:, 0]
    index = select(proposals, foreground, cfg[phase].RPN_MIN_SIZE * scale, phase)
    return Chosen(index, anchors[index], decoded[index], proposals[index], foreground[index])


class _PublishedGradient(torch.autograd.Function):
    """Passes the proposals on; backward is that of the original, which is not the derivative.

    It takes the anchor's size without + 1, drops boxes that stick out of the image before clipping as well as anchors
    that do, and may limit each value.
    """

    @staticmethod
    def forward(
        ctx: Any,
        deltas: torch.Tensor,
        proposals: torch.Tensor,
        index: torch.Tensor,
        anchors: torch.Tensor,
        inside: torch.Tensor,
        limit: float | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(deltas, index, anchors, inside)
        ctx.limit = limit
        return proposals

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        deltas, index, anchors, inside = ctx.saved_tensors
        near, far = grad[:, :2], grad[:, 2:]
        size = anchors[:, 2:] - anchors[:, :2]
        grown = deltas[index, 2:].exp()
        rows = torch.cat([(near + far) * size, 0.5 * (far - near) * grown * size], 1)
        rows = torch.where(inside[:, None], rows, 0)
        if ctx.limit is not None:
            rows = rows.clamp(-ctx.limit, ctx.limit)
        return torch.zeros_like(deltas).index_copy(0, index, rows), None, None, None, None, None


@register_python("pylayer.proposal_layer", "ProposalLayer")
class ProposalLayer(Layer):
    """RoIs [n, 5] (0, x1, y1, x2, y2) in scaled-image pixels from RPN outputs of one image.

    Bottoms: foreground and background probabilities (1, 2A, H, W), regression outputs (1, 4A, H, W), im_info (1, 3).
    Tops: the RoIs by falling score and, where a second one is named (MNC's MIX_INDEX), the number (h * W + w) * A + a
    of the anchor each came from (1, n). `param_str`: feat_stride (pixels per cell), use_clip and clip_base (limit each
    value of the gradient to +-1 / clip_base), scales and ratios of the anchors (`cascade.anchors`).

    The gradient to the regression outputs is the published one (`_PublishedGradient`), or with
    `cfg.TRAIN.EXACT_GRADIENTS` the derivative of decoding and clipping; the choice of boxes counts as constant. The
    scores get none. Source: MNC's pylayer/proposal_layer.py.
    """

    bottoms = (3, 3)
    tops = (1, 2)
    constants = (0, 2)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        values = cascade.options(self.param, "feat_stride")
        self.stride = cascade.positive(values, "feat_stride")
        self.limit = cascade.gradient_limit(values, 256)
        self.anchors = cascade.anchors(values)
        check_shapes(len(self.anchors), bottom_shapes[0], bottom_shapes[1])

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        shapes: list[Shape] = [(1, 5), (1, 1)]
        return shapes[: len(self.param.top)]

    def forward(self, scores: torch.Tensor, deltas: torch.Tensor, im_info: torch.Tensor) -> tuple[torch.Tensor, ...]:
        chosen = propose(scores, deltas, im_info, self.anchors, self.stride, self.phase)
        image_size = cascade.image_info(im_info)[:2]
        index, anchors = chosen.numbers, chosen.anchors
        deltas = per_anchor(deltas, 4)
        if cfg.TRAIN.EXACT_GRADIENTS:
            rois = boxes.clamp(boxes.decode(anchors, cascade.limited(deltas[index], self.limit)), image_size)
        else:
            inside = (boxes.inside(chosen.decoded, image_size) & boxes.inside(anchors, image_size))[:, 0]
            rois = _PublishedGradient.apply(deltas, chosen.boxes, index, anchors, inside, self.limit)
        rois = torch.nn.functional.pad(rois, (1, 0))
        return (rois, index[None].to(rois.dtype))[: len(self.param.top)]
