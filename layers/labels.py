"""Class labels, which Caffe keeps in float blobs: shared by the losses and metrics that read them."""

from __future__ import annotations

import math

import torch

from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Shape, canonical_axis


def read_labels(
    labels: torch.Tensor, scores: Shape, axis: int, ignored: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels of any shape with one number per position of the scores, truncated to integers as Caffe does.

    Args:
        labels: float tensor of as many elements as the scores have positions.
        scores: shape of the class scores.
        axis: their class axis, from 0.
        ignored: the label that counts as none.

    Returns:
        int64 indices for gather, within [0, classes) whatever the label, and bool, false where it is the ignored one;
        both of the scores' shape with 1 at the class axis.

    Raises:
        LayerError: on the CPU, a label that is neither ignored nor a class. Elsewhere the check would stall the
            device; there such a label counts as ignored.
    """
    classes = scores[axis]
    truncated = labels.reshape(*scores[:axis], 1, *scores[axis + 1 :]).long()
    kept = torch.ones_like(truncated, dtype=torch.bool) if ignored is None else truncated != ignored
    known = (truncated >= 0) & (truncated < classes)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = truncated[kept & ~known]
        if len(wrong):
            raise LayerError(f"label {int(wrong[0])} is not a class: there are {classes}, from 0")
    return truncated.where(known, 0), kept & known


def check_labels(scores: Shape, labels: Shape, axis: int) -> int:
    """The class axis from 0; LayerError unless there is one label per position of the scores."""
    axis = canonical_axis(axis, len(scores))
    positions = math.prod(scores[:axis]) * math.prod(scores[axis + 1 :])
    if math.prod(labels) != positions:
        raise LayerError(
            f"needs one label per position: scores of shape {tuple(scores)} with classes on axis {axis} "
            f"take {positions} labels, not {math.prod(labels)}"
        )
    return axis
