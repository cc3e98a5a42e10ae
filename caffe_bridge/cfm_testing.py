"""Testing CFM: an image and its mask proposals through the net, in several scales.

The scales of cfg.TEST.SCALES are taken GROUP_SCALE at a time, each group as one batch of images, and MAX_ROIS_GPU says
for each group (the last number for those beyond) how many proposals pass through the net at a time; the results do not
depend on it. Every proposal is looked at in one scale, where its area is nearest to 224 x 224 pixels.
Source: MNC, lib/caffeWrapper/TesterWrapper.py, `cfm_network_forward`, with one difference: a group's batch counts its
scales from the group's first, also where no proposal is looked at in that one.
"""

from __future__ import annotations

import numpy as np
import torch

from caffe_bridge import boxes as box_arithmetic
from caffe_bridge import masks as mask_arithmetic
from caffe_bridge.config import cfg
from caffe_bridge.errors import CaffeError
from caffe_bridge.mask_proposals import Proposals
from caffe_bridge.net import Net
from caffe_bridge.scaling import as_blob, image_scale, scale_image

INPUTS = ("data", "rois", "masks")
OUTPUTS = ("mask_prob", "seg_cls_prob")
MIN_SIZE = 16  # image pixels; smaller proposals are left out
_AREA = 224 * 224


def check_net(net: Net) -> None:
    """Raise CaffeError unless the net is a CFM test net: has its inputs and makes its outputs."""
    missing = [name for name in (*INPUTS, *OUTPUTS) if name not in net.graph.shapes]
    if missing:
        wanted = f"{', '.join(INPUTS)} and makes {', '.join(OUTPUTS)}"
        raise CaffeError(f"a CFM test net takes {wanted}; {net.name or 'the net'} has no '{missing[0]}'")


@torch.no_grad()
def forward_proposals(
    net: Net, image: np.ndarray, proposals: Proposals
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run the net on the proposals of an image, or on the first cfg.TEST.USE_TOP_K_MCG of those that are not small.

    Args:
        image: [H, W, 3], blue, green, red, 0 to 255.

    Returns:
        What `inference.suppress` takes, scale by scale: boxes [R, 4], the proposals' in image pixels; masks
        [R, 1, M, M], M cfg.MASK_SIZE, foreground probability over the box; scores [R, classes], the background first.

    Raises:
        CaffeError: the net is of another kind, or the settings allow no proposal at a time or no scale.
    """
    check_net(net)
    settings = cfg.TEST
    scales, group = list(settings.SCALES), int(settings.GROUP_SCALE)
    at_a_time = [int(count) for count in settings.MAX_ROIS_GPU]
    if not scales or group < 1 or not at_a_time or min(at_a_time) < 1:
        raise CaffeError("TEST.SCALES and TEST.MAX_ROIS_GPU need an entry, GROUP_SCALE and MAX_ROIS_GPU 1 or more")
    large = box_arithmetic.filter_small(proposals.boxes, MIN_SIZE)
    if settings.USE_TOP_K_MCG:
        large = large[: int(settings.USE_TOP_K_MCG)]
    rows, size = proposals.boxes[large], int(settings.CFM_INPUT_MASK_SIZE)
    resized = mask_arithmetic.resize(torch.from_numpy(proposals.masks[large]), (size, size))
    seen = (resized >= cfg.BINARIZE_THRESH).float()[:, None]
    height, width = image.shape[:2]
    factors = np.array([image_scale(height, width, scale, settings.MAX_SIZE) for scale in scales])
    level = levels(rows, factors)
    device = next(net.parameters()).device
    order: list[np.ndarray] = []
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for number, first in enumerate(range(0, len(scales), group)):
        inside = np.flatnonzero((level >= first) & (level < first + group))
        if not len(inside):
            continue
        pyramid = [scale_image(image, scale, settings.MAX_SIZE)[0] for scale in scales[first : first + group]]
        data = torch.from_numpy(as_blob(pyramid)).to(device)
        step = at_a_time[min(number, len(at_a_time) - 1)]
        for chunk in np.split(inside, range(step, len(inside), step)):
            rois = np.column_stack([level[chunk] - first, rows[chunk] * factors[level[chunk], None]])
            inputs = {"data": data, "rois": torch.from_numpy(rois).float().to(device), "masks": seen[chunk].to(device)}
            blobs = net(**inputs, blobs=list(OUTPUTS))
            masks, scores = (blobs[name] for name in OUTPUTS)
            found.append((masks.reshape(len(chunk), 1, cfg.MASK_SIZE, cfg.MASK_SIZE), scores))
            order.append(chunk)
    if not found:
        classes = net.graph.shapes["seg_cls_prob"][1]
        return torch.zeros(0, 4), torch.zeros(0, 1, cfg.MASK_SIZE, cfg.MASK_SIZE), torch.zeros(0, classes)
    boxes = torch.from_numpy(rows[np.concatenate(order)]).float().to(device)
    masks, scores = (torch.cat(part) for part in zip(*found))
    return boxes, masks, scores


def levels(rows: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """The scale, of those with these factors, in which the area of each box [n, 4] is nearest to 224 x 224: int [n]."""
    sides = rows[:, 2:] - rows[:, :2] + 1
    areas = sides.prod(1)[:, None] * factors**2
    return np.abs(areas - _AREA).argmin(1)
