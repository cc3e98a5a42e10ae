"""MNC's proposal target layer: the RoIs the later stages are trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from caffe_bridge import boxes
from caffe_bridge.config import cfg
from caffe_bridge.errors import LayerError
from caffe_bridge.layers import cascade
from caffe_bridge.layers.base import Layer, Shape
from caffe_bridge.registry import register_python


def draw(overlap: np.ndarray, count: float, kind: str) -> np.ndarray:
    """Sorted, distinct row numbers drawn by overlap [N] from the intervals of TRAIN.`kind`_THRESH_LO and _HI.

    Each closed interval gives at most its TRAIN.`kind`_FRACTION of `count`, rounded half to even. NumPy's global
    generator is asked whenever an interval holds a row, even when all of them are kept.
    """
    fractions, low, high = (_listed(cfg.TRAIN[f"{kind}_{key}"]) for key in ("FRACTION", "THRESH_LO", "THRESH_HI"))
    if not len(fractions) == len(low) == len(high):
        raise LayerError(f"TRAIN.{kind}_FRACTION, {kind}_THRESH_LO and {kind}_THRESH_HI have different lengths")
    drawn = [np.empty(0, np.int64)]
    for fraction, lowest, highest in zip(fractions, low, high):
        candidates = np.flatnonzero((overlap >= lowest) & (overlap <= highest))
        if len(candidates):
            size = min(len(candidates), max(int(np.round(count * fraction)), 0))
            drawn.append(np.random.choice(candidates, size=size, replace=False))
    return np.unique(np.concatenate(drawn))


def _listed(value: float | Sequence[float]) -> Sequence[float]:
    return [value] if isinstance(value, (int, float)) else value


@register_python("pylayer.proposal_target_layer", "ProposalTargetLayer")
class ProposalTargetLayer(Layer):
    """A sample of the proposals and ground-truth boxes of one image, with classes and targets.

    Bottoms: RoIs [n, 5], ground-truth boxes [G, 5] (x1, y1, x2, y2, class), both in scaled-image pixels, im_info; for
    masks gt_masks [G, h, w] in original-image pixels and their (height, width) [G, 2]; for MIX_INDEX the anchor
    number of each RoI (1, n).
    Tops: RoIs [K, 5], labels [K], regression targets, inside and outside weights [K, 4 * num_classes]; then mask
    targets, mask weights [K, 1, MASK_SIZE, MASK_SIZE] and mask descriptions [K, 12]; then the anchor numbers of the
    foreground and of the background RoIs. The net chooses how many by naming 5, 8 or 10.
    `param_str`: num_classes, bp_all (false: only foreground RoIs pass a gradient on; true).

    The gradient of a sampled RoI goes to the RoI it was copied from. A RoI drawn both as foreground and as background
    passes only the latter's on, as published, or with `cfg.TRAIN.EXACT_GRADIENTS` the sum. Targets are constants.
    Source: MNC's pylayer/proposal_target_layer.py.
    """

    bottoms = (3, 6)
    tops = (5, 10)
    constants = range(1, 6)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        values = cascade.options(self.param, "num_classes")
        self.classes = cascade.class_count(values)
        self.bp_all = bool(values.get("bp_all", True))
        needed = {5: 3, 8: 5, 10: 6}
        count = len(self.param.top)
        if count not in needed:
            raise LayerError(f"makes 5 tops, 8 with masks, or 10 with masks and anchor numbers; {count} are named")
        if len(bottom_shapes) < needed[count]:
            raise LayerError(f"makes {count} tops from {needed[count]} bottoms, {len(bottom_shapes)} given")

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        columns, mask = (1, 4 * self.classes), (1, 1, cfg.MASK_SIZE, cfg.MASK_SIZE)
        shapes = [(1, 5), (1, 1), columns, columns, columns, mask, mask, (1, 4), (1, 4), (1, 4)]
        return shapes[: len(self.param.top)]

    def forward(
        self, rois: torch.Tensor, gt_boxes: torch.Tensor, im_info: torch.Tensor, *more: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        cascade.check_gt_boxes(gt_boxes)
        cascade.image_info(im_info)
        candidates = torch.cat([rois, torch.nn.functional.pad(gt_boxes[:, :4], (1, 0))])
        if bool(candidates[:, 0].any()):
            raise LayerError("takes the RoIs of one image; some have a batch index other than 0")
        overlap, assigned = boxes.overlaps(candidates[:, 1:].detach(), gt_boxes[:, :4]).max(1)
        fg, bg = self._sample(overlap.cpu().numpy())
        keep = torch.from_numpy(np.concatenate([fg, bg])).to(rois.device)
        sampled = torch.where(self._passes(fg, bg, keep), candidates[keep], candidates[keep].detach())
        with torch.no_grad():
            targets = self._targets(candidates[keep, 1:], assigned[keep], len(fg), gt_boxes, im_info, more)
            if len(self.param.top) == 10:
                numbers = more[2].flatten()
                if len(numbers) != len(rois):
                    raise LayerError(f"{len(rois)} RoIs come with {len(numbers)} anchor numbers")
                foreground = keep[: len(fg)]
                targets += (numbers[foreground[foreground < len(rois)]], numbers[keep[len(fg) :]])
        return (sampled, *targets)

    def _sample(self, overlap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        fg = draw(overlap, cfg.TRAIN.BATCH_SIZE, "FG")
        bg = draw(overlap, cfg.TRAIN.BATCH_SIZE - len(fg), "BG")
        if not len(fg) + len(bg):
            raise LayerError("no RoI falls into the intervals of TRAIN.FG_THRESH_* and TRAIN.BG_THRESH_*")
        return fg, bg

    def _passes(self, fg: np.ndarray, bg: np.ndarray, keep: torch.Tensor) -> torch.Tensor:
        """Which of the sampled rows pass a gradient on [K, 1]."""
        passes = np.ones(len(fg) + len(bg), bool)
        if not self.bp_all:
            passes[len(fg) :] = False
        elif not cfg.TRAIN.EXACT_GRADIENTS:
            passes[: len(fg)] = ~np.isin(fg, bg)
        return torch.from_numpy(passes).to(keep.device)[:, None]

    def _targets(
        self,
        rois: torch.Tensor,
        assigned: torch.Tensor,
        foreground: int,
        gt_boxes: torch.Tensor,
        im_info: torch.Tensor,
        more: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, ...]:
        labels = cascade.assigned_labels(gt_boxes, assigned, foreground, self.classes)
        tops: tuple[torch.Tensor, ...] = (
            labels,
            *cascade.box_targets(rois, gt_boxes[assigned, :4], labels, self.classes),
        )
        if len(self.param.top) > 5:
            tops += cascade.mask_targets(rois, labels, foreground, assigned, gt_boxes, more[0], more[1], im_info[0, 2])
        return tops
