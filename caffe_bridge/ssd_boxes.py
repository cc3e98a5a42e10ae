"""Box arithmetic of SSD (Liu et al., arXiv:1512.02325), on tensors.

A box is (xmin, ymin, xmax, ymax) in fractions of the image, so its width is xmax - xmin: unlike in
`caffe_bridge.boxes`, nothing is inclusive and there is no + 1.
"""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError

# PriorBoxParameter.CodeType
CORNER, CENTER_SIZE, CORNER_SIZE = 1, 2, 3


def by_coordinate(boxes: torch.Tensor) -> torch.Tensor:
    """The same boxes [..., 4] with each coordinate packed in memory, which is how elementwise operations are fast."""
    return boxes.movedim(-1, 0).contiguous().movedim(0, -1)


def area(boxes: torch.Tensor) -> torch.Tensor:
    """Areas of boxes [..., 4]; 0 where a far corner lies before the near one."""
    xmin, ymin, xmax, ymax = boxes.unbind(-1)
    return torch.where((xmax < xmin) | (ymax < ymin), 0, (xmax - xmin) * (ymax - ymin))


def overlaps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of boxes [..., 4] that broadcast; 0 for boxes that only touch."""
    xmin, ymin, xmax, ymax = a.unbind(-1)
    xmin_b, ymin_b, xmax_b, ymax_b = b.unbind(-1)
    width = torch.minimum(xmax, xmax_b) - torch.maximum(xmin, xmin_b)
    height = torch.minimum(ymax, ymax_b) - torch.maximum(ymin, ymin_b)
    both = width * height
    return torch.where((width > 0) & (height > 0), both / (area(a) + area(b) - both), 0)


def sticks_out(boxes: torch.Tensor) -> torch.Tensor:
    """Whether any coordinate of a box [..., 4] lies outside the image, [0, 1]."""
    return ((boxes < 0) | (boxes > 1)).any(-1)


def read_priors(blob: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes and variances [P, 4] of PriorBox's blob (1, 2, 4P)."""
    priors, variances = blob.reshape(2, -1, 4).unbind(0)
    return priors, variances


def decode(codes: torch.Tensor, priors: torch.Tensor, variances: torch.Tensor | None, code_type: int) -> torch.Tensor:
    """Boxes [..., 4] from what a net predicts for their priors.

    Args:
        codes: predictions [..., 4].
        priors: boxes [..., 4] that broadcast with them.
        variances: [..., 4], multiplied with the codes; None where the net learned to do without.
        code_type: CORNER, CENTER_SIZE or CORNER_SIZE.
    """
    if variances is not None:
        codes = codes * variances
    if code_type == CORNER:
        return priors + codes
    size = _sizes(priors)
    if code_type == CORNER_SIZE:
        return priors + codes * torch.cat([size, size], -1)
    centre = codes[..., :2] * size + _centres(priors)
    half = codes[..., 2:].exp() * size / 2
    return torch.cat([centre - half, centre + half], -1)


def encode(boxes: torch.Tensor, priors: torch.Tensor, variances: torch.Tensor | None, code_type: int) -> torch.Tensor:
    """What a net should predict for boxes [..., 4] of their priors; the inverse of `decode`."""
    if code_type == CENTER_SIZE:
        size = _sizes(priors)
        offset = (_centres(boxes) - _centres(priors)) / size
        codes = torch.cat([offset, (_sizes(boxes) / size).log()], -1)
    else:
        codes = boxes - priors
        if code_type == CORNER_SIZE:
            size = _sizes(priors)
            codes = codes / torch.cat([size, size], -1)
    return codes if variances is None else codes / variances


def check_sizes(priors: torch.Tensor, code_type: int) -> None:
    """Raise LayerError, on the CPU, where codes are relative to sizes and a prior has none."""
    if code_type != CORNER and priors.device.type == "cpu" and not bool((_sizes(priors) > 0).all()):
        raise LayerError("a prior box has no width or no height, and code_type measures by them")


def _sizes(boxes: torch.Tensor) -> torch.Tensor:
    return boxes[..., 2:] - boxes[..., :2]


def _centres(boxes: torch.Tensor) -> torch.Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2
