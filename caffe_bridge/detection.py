"""Boxes of objects in a picture by Fast or Faster R-CNN, by the rules of py-faster-rcnn's test program.

    config.use("py_faster_rcnn")
    scores, boxes = detect(net, image)                  # an RPN proposes
    scores, boxes = detect(net, image, proposals)       # or someone else did
    of_class = best_detections(scores, boxes)           # class 1 first: rows (x1, y1, x2, y2, score)

MNC's test program has other rules for the same nets (`caffe_bridge.testing`). Boxes are (x1, y1, x2, y2) in image
pixels with inclusive corners; class 0 is the background. Source: py-faster-rcnn, lib/fast_rcnn/test.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from caffe_bridge import boxes as box_arithmetic
from caffe_bridge.config import cfg
from caffe_bridge.errors import CaffeError
from caffe_bridge.layers import functional
from caffe_bridge.scaling import as_blob, scale_image

_NATURAL_AREA = 224 * 224  # pixels a RoI should have at the level of the pyramid it is looked up in
_HASH = np.array([1, 1e3, 1e6, 1e9, 1e12])


def image_pyramid(image: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """An image [H, W, 3] (blue, green, red, 0 to 255) at each of cfg.TEST.SCALES.

    Returns:
        float32 [levels, 3, h, w], less cfg.PIXEL_MEANS, smaller levels with zeros at the right and bottom; and the
        factor from image to level, float64 [levels].

    Raises:
        CaffeError: no scales, or the array is no colour image.
    """
    if not cfg.TEST.SCALES:
        raise CaffeError("TEST.SCALES is empty; it needs the pixels of the short side, such as (600,)")
    levels = [scale_image(image, target_size, cfg.TEST.MAX_SIZE) for target_size in cfg.TEST.SCALES]
    return torch.from_numpy(as_blob([scaled for scaled, _ in levels])), np.array([scale for _, scale in levels])


def one_level(image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The inputs data and im_info of a net with an RPN, which takes one scale, and that scale."""
    data, scales = image_pyramid(image)
    if len(scales) != 1:
        raise CaffeError(f"an RPN works at one scale; TEST.SCALES has {len(scales)}")
    return data, torch.tensor([[*data.shape[2:], scales[0]]], dtype=torch.float32), float(scales[0])


def rois_of(proposals: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """RoIs float32 [n, 5] (level, x1, y1, x2, y2 in its pixels) of proposals [n, 4] in image pixels.

    Each goes to the level where its area comes closest to 224 x 224, the first of equals.
    """
    proposals, scales = np.asarray(proposals, np.float64), np.asarray(scales, np.float64)
    area = (proposals[:, 2] - proposals[:, 0] + 1) * (proposals[:, 3] - proposals[:, 1] + 1)
    levels = np.abs(area[:, None] * scales**2 - _NATURAL_AREA).argmin(1)
    return np.concatenate([levels[:, None], proposals * scales[levels, None]], axis=1).astype(np.float32)


@torch.no_grad()
def detect(net: Any, image: np.ndarray, proposals: np.ndarray | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a net on one image.

    Where cfg.DEDUP_BOXES is not 0, proposals that fall on the same RoI after scaling by it and rounding are looked at
    once, and share the boxes of the first. Boxes are regressed and clipped to the image with cfg.TEST.BBOX_REG;
    otherwise they are those proposed, for every class. cfg.TEST.SVM takes the scores before the softmax.

    Args:
        net: a test net with the blobs cls_prob and bbox_pred; its weights predict plain boxes, as snapshots do.
        image: [H, W, 3], blue, green, red, 0 to 255.
        proposals: [n, 4], image pixels; None where the net has an RPN.

    Returns:
        Scores [n, classes] and boxes [n, 4 * classes], both in the order of the proposals.

    Raises:
        CaffeError: the image is of another kind, or the net has an RPN and there are several scales.
    """
    wanted = ["cls_score" if cfg.TEST.SVM else "cls_prob", *(["bbox_pred"] if cfg.TEST.BBOX_REG else [])]
    if proposals is None:
        data, im_info, scale = one_level(image)
        blobs = net(data=data, im_info=im_info, blobs=[*wanted, "rois"])
        rois = blobs["rois"][:, 1:5]
        # A tensor, not a number: CUDA multiplies by the reciprocal of a number.
        return _boxes_and_scores(blobs, rois / rois.new_tensor(scale), image)
    proposals = np.asarray(proposals)
    if proposals.ndim != 2 or proposals.shape[1] != 4:
        raise CaffeError(f"proposals are rows (x1, y1, x2, y2), not of shape {proposals.shape}")
    if not len(proposals):
        classes = net.graph.shapes[wanted[0]][1]
        return torch.zeros(0, classes), torch.zeros(0, 4 * classes)
    data, scales = image_pyramid(image)
    rois = rois_of(proposals, scales)
    where = np.arange(len(rois))
    if cfg.get("DEDUP_BOXES", 0) > 0:
        hashes = np.round(rois * np.float32(cfg.DEDUP_BOXES)) @ _HASH
        _, first, where = np.unique(hashes, return_index=True, return_inverse=True)
        rois, proposals = rois[first], proposals[first]
    blobs = net(data=data, rois=torch.from_numpy(rois), blobs=wanted)
    kept = torch.from_numpy(proposals.astype(np.float32)).to(blobs[wanted[0]].device)
    scores, boxes = _boxes_and_scores(blobs, kept, image)
    rows = torch.from_numpy(where.ravel()).to(scores.device)
    return scores[rows], boxes[rows]


def _boxes_and_scores(
    blobs: dict[str, torch.Tensor], boxes: torch.Tensor, image: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = blobs["cls_score" if cfg.TEST.SVM else "cls_prob"]
    if not cfg.TEST.BBOX_REG:
        return scores, boxes.repeat(1, scores.shape[1])
    return scores, box_arithmetic.clamp(box_arithmetic.decode(boxes, blobs["bbox_pred"]), image.shape[:2])


def best_detections(
    scores: torch.Tensor, boxes: torch.Tensor, max_per_image: int = 100, threshold: float = 0.05
) -> list[torch.Tensor]:
    """The detections to report of what `detect` returns: [n, 5] with the score last for each class, class 1 first.

    Those above `threshold`, after non-maximum suppression at cfg.TEST.NMS class by class, by falling score. Of all
    classes together the `max_per_image` best stay (0 for all), and others that score as much as the last of them.
    """
    found = []
    for c in range(1, scores.shape[1]):
        rows = (scores[:, c] > threshold).nonzero()[:, 0]
        of_class, score = boxes[rows, 4 * c : 4 * c + 4], scores[rows, c]
        keep = functional.nms(of_class, score, cfg.TEST.NMS, inclusive=not cfg.USE_GPU_NMS)
        found.append(torch.cat([of_class[keep], score[keep, None]], dim=1))
    count = sum(len(rows) for rows in found)
    if 0 < max_per_image < count:
        least = torch.cat([rows[:, 4] for rows in found]).sort(descending=True).values[max_per_image - 1]
        found = [rows[rows[:, 4] >= least] for rows in found]
    return found


def suppress(detections: Sequence[torch.Tensor | np.ndarray], threshold: float) -> list[torch.Tensor]:
    """Non-maximum suppression of stored detections [n, 5], one array at a time (py-faster-rcnn's `apply_nms`).

    Whatever cfg.USE_GPU_NMS says, boxes go whose overlap is `threshold` or more.
    """
    kept = []
    for rows in detections:
        rows = torch.as_tensor(rows).reshape(-1, 5)
        kept.append(rows[functional.nms(rows[:, :4], rows[:, 4], threshold, inclusive=True)])
    return kept
