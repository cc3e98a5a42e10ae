"""Indices, which Caffe keeps in float blobs: shared by the layers that gather rows by them."""

from __future__ import annotations

import torch

from caffe_bridge.errors import LayerError


def read_indices(values: torch.Tensor, count: int) -> torch.Tensor:
    """int64 indices into `count` rows, truncated from a float tensor of any shape.

    Raises:
        LayerError: on the CPU, a value below 0 or not below `count`. Elsewhere the check would stall the device; there
            such a value counts as the nearest row.
    """
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = values[~((values >= 0) & (values < count))]
        if len(wrong):
            raise LayerError(f"index {wrong[0].item():g} is outside [0, {count})")
        return values.long()
    return values.long().clamp(0, count - 1)
