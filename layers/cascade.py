"""What MNC's Python layers share: their parameters, the image description, and the targets of a set of RoIs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from caffe_bridge import bbox_targets, boxes, masks
from caffe_bridge.config import cfg, safe_yaml_load
from caffe_bridge.errors import CaffeError, LayerError


def options(param: Any, *required: str) -> dict[str, Any]:
    """The `param_str` of a Python layer: a YAML mapping.

    Raises LayerError when it is something else or lacks one of the `required` keys.
    """
    text = param.python_param.param_str
    try:
        values = safe_yaml_load(text)
    except CaffeError as error:
        raise LayerError(f"param_str {text!r} is {error}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise LayerError(f"param_str {text!r} is not a mapping such as \"{{'feat_stride': 16}}\"")
    for key in required:
        if key not in values:
            raise LayerError(f"param_str {text!r} lacks '{key}'")
    return values


def positive(values: dict[str, Any], key: str, default: float | None = None) -> Any:
    """A number above zero from a layer's options; LayerError when it is anything else."""
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise LayerError(f"param_str: '{key}' is a number above 0, not {value!r}")
    return value


def class_count(values: dict[str, Any]) -> int:
    """The option `num_classes`, background included; LayerError when it is no positive integer."""
    count = positive(values, "num_classes")
    if not isinstance(count, int):
        raise LayerError(f"param_str: 'num_classes' is an integer, not {count!r}")
    return count


def anchors(values: dict[str, Any]) -> np.ndarray:
    """The anchors around cell (0, 0), [A, 4], of the options `scales` and `ratios`; without them MNC's nine.

    Scales are multiples of 16 scaled-image pixels, ratios height / width.
    Raises LayerError for anything but lists of numbers above 0.
    """
    chosen: dict[str, Any] = {}
    for key in ("scales", "ratios"):
        numbers = values.get(key)
        if numbers is None:
            continue
        if not isinstance(numbers, list) or not numbers:
            raise LayerError(f"param_str: '{key}' is a list of numbers, not {numbers!r}")
        chosen[key] = [positive({key: number}, key) for number in numbers]
    return boxes.anchors(**chosen)


class _Limited(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, limit: float) -> torch.Tensor:
        ctx.limit = limit
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad.clamp(-ctx.limit, ctx.limit), None


def gradient_limit(values: dict[str, Any], clip_base: float) -> float | None:
    """The limit 1 / clip_base that the options `use_clip` and `clip_base` set, None for none."""
    return 1 / positive(values, "clip_base", clip_base) if values.get("use_clip", 0) else None


def limited(values: torch.Tensor, limit: float | None) -> torch.Tensor:
    """The same values; each element of their gradient is clamped to +-limit on the way back, unless that is None."""
    return values if limit is None else _Limited.apply(values, limit)


def image_info(im_info: torch.Tensor) -> tuple[float, float, float]:
    """(height, width, scale) of the network's input image, from a blob (1, 3).

    Raises LayerError for another shape: these layers take one image at a time.
    """
    if im_info.ndim != 2 or im_info.shape[0] != 1 or im_info.shape[1] < 3:
        raise LayerError(f"im_info of one image has shape (1, 3): height, width, scale; this is {tuple(im_info.shape)}")
    height, width, scale = im_info[0, :3].tolist()
    if not (height >= 1 and width >= 1 and scale > 0):
        raise LayerError(f"im_info holds height, width and scale, not {height:g}, {width:g}, {scale:g}")
    return height, width, scale


def check_gt_boxes(gt_boxes: torch.Tensor) -> None:
    """Raise LayerError unless there is at least one row (x1, y1, x2, y2, class)."""
    if gt_boxes.ndim != 2 or gt_boxes.shape[1] != 5:
        raise LayerError(f"ground-truth boxes are rows (x1, y1, x2, y2, class); their shape is {tuple(gt_boxes.shape)}")
    if not len(gt_boxes):
        raise LayerError("the image has no ground-truth box; leave such images out of the training set")


def check_numbers(**tensors: torch.Tensor) -> None:
    """Raise LayerError naming the tensors that contain NaN."""
    if bool(torch.stack([tensor.isnan().any() for tensor in tensors.values()]).any()):
        names = " and ".join(name for name, tensor in tensors.items() if bool(tensor.isnan().any()))
        raise LayerError(f"NaN in the {names}; the network has diverged or its weights are damaged")


def assigned_labels(gt_boxes: torch.Tensor, assigned: torch.Tensor, foreground: int, classes: int) -> torch.Tensor:
    """Class of each RoI's ground truth [K] (`assigned`), 0 from row `foreground` on."""
    if not 0 <= float(gt_boxes[:, 4].min()) <= float(gt_boxes[:, 4].max()) < classes:
        raise LayerError(f"the classes of the ground truth lie outside 0 to {classes - 1} (num_classes {classes})")
    labels = gt_boxes[assigned, 4]
    labels[foreground:] = 0
    return labels


def box_targets(
    rois: torch.Tensor, gt_boxes: torch.Tensor, labels: torch.Tensor, classes: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Regression targets, inside and outside weights [K, 4 * classes] of boxes [K, 4] for their own ground truth."""
    targets = bbox_targets.normalised(boxes.encode(rois, gt_boxes)).to(labels.dtype)
    spread, inside = bbox_targets.per_class(targets, labels, classes)
    return spread, inside, (inside > 0).to(inside.dtype)


def mask_targets(
    rois: torch.Tensor,
    labels: torch.Tensor,
    foreground: int,
    assigned: torch.Tensor,
    gt_boxes: torch.Tensor,
    gt_masks: torch.Tensor,
    mask_info: torch.Tensor,
    im_scale: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mask targets and weights [K, 1, MASK_SIZE, MASK_SIZE] and mask descriptions [K, 12] of boxes [K, 4].

    The first `foreground` rows get a target and weight 1, the others zeros and a description of -1. A description is
    (ground truth, its mask's height and width, class, box of the RoI, box of the ground truth), boxes in whole pixels
    of the original image. `gt_masks` [G, h, w] are in original-image pixels, boxes in scaled-image pixels.
    """
    if gt_masks.ndim != 3 or mask_info.ndim != 2 or not len(gt_masks) == len(mask_info) == len(gt_boxes):
        raise LayerError(
            f"{len(gt_boxes)} ground-truth boxes come with masks of shape {tuple(gt_masks.shape)} "
            f"and mask sizes of shape {tuple(mask_info.shape)}"
        )
    size = cfg.MASK_SIZE
    targets = labels.new_zeros(len(rois), 1, size, size)
    weights = labels.new_zeros(len(rois), 1, size, size)
    info = labels.new_full((len(rois), 12), -1)
    if foreground:
        assigned = assigned[:foreground]
        seen = (rois[:foreground] / im_scale).round().long()
        truth = (gt_boxes[:, :4] / im_scale).round().long()[assigned]
        sizes = mask_info[assigned, :2].long()
        targets[:foreground, 0] = masks.targets(seen, gt_masks, assigned, sizes, truth, size, cfg.BINARIZE_THRESH).to(
            targets.dtype
        )
        weights[:foreground] = 1
        columns = [assigned[:, None], sizes, labels[:foreground, None], seen, truth]
        info[:foreground] = torch.cat([column.to(info.dtype) for column in columns], 1)
    return targets, weights, info
