"""Proposal, the region proposal layer that later Faster R-CNN forks have in C++ (PVANET's)."""

from __future__ import annotations

import numpy as np
import torch

from caffe_bridge import boxes
from caffe_bridge.errors import LayerError
from caffe_bridge.layers import functional as F
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.layers.proposal import per_anchor
from caffe_bridge.registry import register


def anchors(base_size: int, ratios: list[float], scales: list[float]) -> np.ndarray:
    """Anchors around cell (0, 0), float32 [len(ratios) * len(scales), 4]; scales vary fastest.

    As `caffe_bridge.boxes.anchors`, but for sides rounded half up, in single precision.
    """
    ratio, scale = np.asarray(ratios, np.float32), np.asarray(scales, np.float32)
    width = np.floor(np.sqrt(np.float32(base_size * base_size) / ratio) + np.float32(0.5))
    sides = np.stack([width, np.floor(width * ratio + np.float32(0.5))], 1)
    half = np.float32(0.5) * ((sides[:, None] * scale[:, None]).reshape(-1, 2) - 1)
    centre = np.float32(0.5 * (base_size - 1))
    return np.concatenate([centre - half, centre + half], 1)


@register("Proposal", source="PVANET")
class Proposal(Layer):
    """RoIs of one image from the outputs of a region proposal network (Ren et al., arXiv:1506.01497).

    Bottoms: background and foreground probabilities (1, 2A, H, W), deltas (1, 4A, H, W), and im_info (1, 3) or
    (1, 4): height, width, scale, or scale along the height and the width. Tops: RoIs (n, 5), rows 0, x1, y1, x2, y2 in
    scaled-image pixels, best first, at most post_nms_topn; if named, their scores (n,). Boxes below min_size original
    pixels are not dropped but score 0.
    """

    bottoms = (3, 3)
    tops = (1, 2)
    constants = Layer.ALL_BOTTOMS

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.proposal_param
        ratios, scales = list(param.ratio), list(param.scale)
        if not ratios or not scales or min(*ratios, *scales) <= 0:
            raise LayerError(f"needs ratio and scale, each at least once and above 0, not {ratios} and {scales}")
        if not param.feat_stride or not param.base_size:
            raise LayerError("feat_stride and base_size must be above 0")
        self.stride, self.min_size = param.feat_stride, param.min_size
        self.before, self.after, self.threshold = param.pre_nms_topn, param.post_nms_topn, param.nms_thresh
        self.anchors = torch.from_numpy(anchors(param.base_size, ratios, scales))

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        scores, deltas, info = bottom_shapes
        count = len(self.anchors)
        if len(scores) != 4 or scores[:2] != (1, 2 * count) or deltas != (1, 4 * count, *scores[2:]):
            raise LayerError(
                f"with {count} anchors takes scores (1, {2 * count}, H, W) and deltas (1, {4 * count}, H, W) of one "
                f"image, not {tuple(scores)} and {tuple(deltas)}"
            )
        if torch.Size(info).numel() not in (3, 4):
            raise LayerError(f"takes im_info (1, 3), height, width and scale, or (1, 4), not {tuple(info)}")
        return [(self.after, 5), (self.after,)][: len(self.param.top)]

    @torch.no_grad()
    def forward(
        self, scores: torch.Tensor, deltas: torch.Tensor, im_info: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        height, width, *scale = im_info.flatten().tolist()
        least = torch.tensor([scale[-1], scale[0]], dtype=deltas.dtype, device=deltas.device) * self.min_size
        cells = boxes.shifted_anchors(self.anchors.to(deltas), scores.shape[2], scores.shape[3], self.stride)
        proposals = boxes.clamp(boxes.decode(cells, per_anchor(deltas, 4)), (height, width))
        large = (proposals[:, 2:] - proposals[:, :2] + 1 >= least).all(1)
        score = per_anchor(scores[:, len(self.anchors) :], 1)[:, 0] * large
        order = score.argsort(descending=True, stable=True)[: self.before]
        kept = order[F.nms(proposals[order], score[order], self.threshold)[: self.after]]
        rois = torch.nn.functional.pad(proposals[kept], (1, 0))
        return (rois, score[kept]) if len(self.param.top) > 1 else rois
