"""Instance segmentation of a picture with a trained MNC net: from a BGR image to boxes, classes, scores and masks.

    net = caffe_bridge.Net("prototxt/mnc5/test.prototxt", "mnc_model.caffemodel.h5")
    found = detect(net, cv2.imread("street.jpg"))
    mask = paste_mask(found.masks[0], found.boxes[0], image.shape[:2])

The steps and their numbers are those of MNC's demo and test programs. Boxes are (x1, y1, x2, y2) with inclusive
corners; class 0 is the background and never appears in a result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from caffe_bridge import boxes as box_arithmetic
from caffe_bridge.config import cfg
from caffe_bridge.datasets.voc import VOC_CLASSES
from caffe_bridge.errors import CaffeError
from caffe_bridge.layers import functional
from caffe_bridge.net import Net
from caffe_bridge.scaling import scale_image

STAGES = ("", "_ext")  # the cascade's third stage, and its fifth on the regressed boxes
STAGE_BLOBS = ("rois", "mask_proposal", "seg_cls_prob")


@dataclass(frozen=True)
class Instances:
    """What was found in one image, class by class and by falling score within a class.

    Attributes:
        boxes: float [N, 4], image pixels.
        classes: int64 [N], from 1.
        scores: float [N].
        masks: float [N, M, M], foreground probability over the box; `paste_mask` puts one into the image.
    """

    boxes: torch.Tensor
    classes: torch.Tensor
    scores: torch.Tensor
    masks: torch.Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> Instances:
        """Those with a score of at least `threshold`."""
        keep = self.scores >= threshold
        return Instances(self.boxes[keep], self.classes[keep], self.scores[keep], self.masks[keep])

    def cpu(self) -> Instances:
        """The same on the CPU."""
        return Instances(self.boxes.cpu(), self.classes.cpu(), self.scores.cpu(), self.masks.cpu())


def class_names(count: int) -> list[str]:
    """Names for classes 1 to `count`: PASCAL VOC's where there are 20 of them."""
    return list(VOC_CLASSES) if count == len(VOC_CLASSES) else [f"class {i}" for i in range(1, count + 1)]


def prepare_image(
    image: np.ndarray, target_size: float | None = None, max_size: float | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A net's inputs for one image.

    Args:
        image: [H, W, 3], blue, green, red, 0 to 255.
        target_size: pixels of the scaled image's short side; cfg.TEST.SCALES[0] by default.
        max_size: most pixels of its long side; cfg.TRAIN.MAX_SIZE by default, which is the key MNC's test code reads.

    Returns:
        data: float32 [1, 3, h, w], minus cfg.PIXEL_MEANS, bilinearly resized by a factor.
        im_info: float32 [1, 3]: h, w and the factor from image to scaled image.

    Raises:
        CaffeError: the array is not a colour image, or the scaled image would be empty or absurdly large.
    """
    if not cfg.TEST.SCALES:
        raise CaffeError("TEST.SCALES is empty; it needs the pixels of the short side, such as (600,)")
    target_size = cfg.TEST.SCALES[0] if target_size is None else target_size
    max_size = cfg.TRAIN.MAX_SIZE if max_size is None else max_size
    scaled, scale = scale_image(image, target_size, max_size)
    data = torch.from_numpy(scaled.transpose(2, 0, 1)[None].copy())
    return data, torch.tensor([[*scaled.shape[:2], scale]], dtype=torch.float32)


def check_net(net: Net) -> None:
    """Raise CaffeError unless the net takes data and im_info and makes the blobs of MNC's test nets."""
    name = net.name or "this net"
    if set(net.inputs) != {"data", "im_info"}:
        raise CaffeError(
            f"an MNC test net takes 'data' and 'im_info'; {name} takes {', '.join(net.inputs) or 'nothing'}"
        )
    missing = [blob for blob in STAGE_BLOBS if blob not in net.graph.shapes]
    if missing:
        raise CaffeError(f"an MNC test net makes {', '.join(STAGE_BLOBS)}; {name} has no '{missing[0]}'")


@torch.no_grad()
def forward_stages(net: Net, image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run the net on one image and collect what its stages propose, before any merging.

    Args:
        net: an MNC test net: inputs data and im_info; blobs rois, mask_proposal and seg_cls_prob, and the same with
            _ext from the fifth stage where the net has one.
        image: [H, W, 3], blue, green, red, 0 to 255.

    Returns:
        boxes: [R, 4], image pixels, clipped to the image.
        masks: [R, 1, M, M], foreground probability over the box.
        scores: [R, classes], the background first.
    """
    check_net(net)
    data, im_info = prepare_image(image)
    stages = [stage for stage in STAGES if all(name + stage in net.graph.shapes for name in STAGE_BLOBS)]
    blobs = net(data=data, im_info=im_info, blobs=[name + stage for stage in stages for name in STAGE_BLOBS])
    rois, masks, scores = (torch.cat([blobs[name + stage] for stage in stages]) for name in STAGE_BLOBS)
    # A tensor, not a number: CUDA multiplies by the reciprocal of a number.
    boxes = rois[:, 1:5] / im_info[0, 2].to(rois.device, rois.dtype)
    return box_arithmetic.clamp(boxes, image.shape[:2]), masks, scores


def suppress(
    boxes: torch.Tensor, masks: torch.Tensor, scores: torch.Tensor, max_per_class: int = 100
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Per class, the best `max_per_class` rows and of those what non-maximum suppression at cfg.TEST.NMS leaves.

    Takes what `forward_stages` returns. This is what MNC's test code does without mask merging.

    Returns:
        boxes per class [k, 5] with the score last, and masks per class [k, 1, M, M]; class 1 first.
    """
    box_lists, mask_lists = [], []
    for class_scores in scores.unbind(1)[1:]:
        top = class_scores.argsort(descending=True, stable=True)[:max_per_class]
        keep = top[functional.nms(boxes[top], class_scores[top], cfg.TEST.NMS, inclusive=not cfg.USE_GPU_NMS)]
        box_lists.append(torch.cat([boxes[keep], class_scores[keep, None]], dim=1))
        mask_lists.append(masks[keep])
    return box_lists, mask_lists


def vote_binarised(
    boxes: torch.Tensor, masks: torch.Tensor, scores: torch.Tensor, image_size: Sequence[int], max_per_image: int = 100
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Mask voting by MNC's CPU program, another algorithm than `functional.mask_voting`, its GPU one.

    Every box that overlaps a survivor votes with its mask pasted into the image and binarised, weighted by its score of
    the survivor's class; the result is what gathers at least cfg.BINARIZE_THRESH, in its tight box (the image's centre
    where nothing does). Takes what `forward_stages` returns.

    Returns:
        boxes per class [k, 5] with the score last, and masks per class [k, 1, M, M]; class 1 first.
    """
    survivors = [
        functional.nms(boxes, class_scores, cfg.TEST.MASK_MERGE_NMS_THRESH, inclusive=not cfg.USE_GPU_NMS)
        for class_scores in scores.unbind(1)[1:]
    ]
    survivors = [rows[:max_per_image] for rows in survivors]
    best = torch.cat([scores[rows, c] for c, rows in enumerate(survivors, 1)]).sort(descending=True).values
    least = best[:max_per_image][-1]
    box_lists, mask_lists = [], []
    for c, rows in enumerate(survivors, 1):
        rows = rows[scores[rows, c] >= least]
        near = box_arithmetic.overlaps(boxes[rows], boxes) >= cfg.TEST.MASK_MERGE_IOU_THRESH
        merged = [_merge_binarised(boxes[voters], masks[voters], scores[voters, c], image_size) for voters in near]
        tight = boxes.new_tensor([box for box, _ in merged]).reshape(-1, 4)
        box_lists.append(torch.cat([tight, scores[rows, c, None]], dim=1))
        merged_masks = np.array([mask for _, mask in merged], np.float32).reshape(-1, *masks.shape[1:])
        mask_lists.append(torch.from_numpy(merged_masks).to(masks))
    return box_lists, mask_lists


def _merge_binarised(
    boxes: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor, image_size: Sequence[int]
) -> tuple[list[int], np.ndarray]:
    """The tight box of the weighted sum of binarised masks, and the sum in it, resized to a mask [M, M]."""
    height, width = image_size
    votes = np.zeros((height, width))
    for box, mask, weight in zip(boxes.cpu(), masks[:, 0].cpu(), (weights / weights.sum()).tolist()):
        votes += weight * paste_mask(mask, box, image_size)
    y, x = np.nonzero(votes >= cfg.BINARIZE_THRESH)
    if len(y) == 0:
        y, x = np.array([height // 2]), np.array([width // 2])
    tight = [int(x.min()), int(y.min()), int(x.max()), int(y.max())]
    inside = votes[tight[1] : tight[3] + 1, tight[0] : tight[2] + 1].astype(np.float32)
    return tight, cv2.resize(inside, tuple(masks.shape[:1:-1]))


def detect(net: Net, image: np.ndarray, max_per_image: int = 100) -> Instances:
    """Find the instances in one image.

    Boxes and masks of both stages are merged by mask voting, which keeps the `max_per_image` best scores over all
    classes (and ties with the last); cfg.TEST.USE_GPU_MASK_MERGE says which of MNC's two ways of voting, wherever the
    net runs. Without cfg.TEST.USE_MASK_MERGE they are suppressed class by class, each keeping up to `max_per_image`.

    Args:
        net: an MNC test net, as `forward_stages` describes it.
        image: [H, W, 3], blue, green, red, 0 to 255.

    Raises:
        CaffeError: the image or the net is of another kind.
    """
    boxes, masks, scores = forward_stages(net, image)
    if len(boxes) == 0:
        empty = scores.new_zeros(0)
        return Instances(boxes, empty.long(), empty, masks.flatten(0, 1))
    if not cfg.TEST.USE_MASK_MERGE:
        merged = suppress(boxes, masks, scores, max_per_image)
    elif not cfg.TEST.USE_GPU_MASK_MERGE:
        merged = vote_binarised(boxes, masks, scores, image.shape[:2], max_per_image)
    else:
        merged = functional.mask_voting(
            boxes,
            masks,
            scores,
            image.shape[:2],
            max_per_image,
            nms_threshold=cfg.TEST.MASK_MERGE_NMS_THRESH,
            iou_threshold=cfg.TEST.MASK_MERGE_IOU_THRESH,
            binarize_threshold=cfg.BINARIZE_THRESH,
        )
    box_lists, mask_lists = merged
    classes = [torch.full((len(found),), i, device=found.device) for i, found in enumerate(box_lists, 1)]
    scored = torch.cat(box_lists)
    return Instances(scored[:, :4], torch.cat(classes), scored[:, 4], torch.cat(mask_lists)[:, 0])


def paste_mask(
    mask: torch.Tensor | np.ndarray, box: torch.Tensor | np.ndarray, image_size: Sequence[int]
) -> np.ndarray:
    """The mask of one instance over the whole image.

    Args:
        mask: [M, M], foreground probability over the box.
        box: (x1, y1, x2, y2), image pixels; rounded half to even and clipped to the image.
        image_size: (height, width).

    Returns:
        bool [height, width]: the mask resized to the box (as cv2.resize does it), at least cfg.BINARIZE_THRESH.
    """
    height, width = image_size
    corners = np.round(_array(box)[:4])
    pasted = np.zeros((height, width), bool)
    if not np.isfinite(corners).all():
        return pasted
    x1, y1, x2, y2 = np.clip(corners, 0, [width - 1, height - 1, width - 1, height - 1]).astype(int).tolist()
    if x2 >= x1 and y2 >= y1:
        resized = cv2.resize(_array(mask).astype(np.float32), (x2 - x1 + 1, y2 - y1 + 1))
        pasted[y1 : y2 + 1, x1 : x2 + 1] = resized >= cfg.BINARIZE_THRESH
    return pasted


def _array(values: torch.Tensor | np.ndarray) -> np.ndarray:
    """The values in float64 on the CPU."""
    return (
        values.detach().double().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values, np.float64)
    )
