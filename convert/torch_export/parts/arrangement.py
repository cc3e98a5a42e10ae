"""Choosing and moving values the way Caffe does."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from caffe_bridge.convert.torch_export.parts.operators import caffe_operator, rows_of_data


@caffe_operator("(Tensor x, int top_k=1, int? axis=None, bool with_values=False) -> Tensor")
def argmax(x, top_k=1, axis=None, with_values=False):
    """Places of the largest values, or with an axis the values; of equal values the last comes first.

    Without an axis over everything but the batch: (N, 1, top_k), or (N, 2, top_k) with the values as second row.
    """
    scores, along = (x.flatten(1), 1) if axis is None else (x, axis)
    values, place = scores.flip(along).sort(dim=along, descending=True, stable=True)
    values = values.narrow(along, 0, top_k)
    place = (scores.shape[along] - 1 - place.narrow(along, 0, top_k)).to(x.dtype)
    if axis is not None:
        return values if with_values else place
    rows = torch.stack((place, values), 1) if with_values else place.unsqueeze(1)
    return rows.reshape(*rows.shape, *[1] * (x.ndim - 3))


@caffe_operator("(Tensor x, int[] kernel, int[] stride, int[] pad, int[] dilation, int axis) -> Tensor")
def im2col(x, kernel, stride, pad, dilation, axis):
    """The patches that a convolution multiplies, side by side as channels."""
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    lengths = x.shape[axis + 1 :]
    rooms = [length + 2 * p - e for length, p, e in zip(lengths, pad, extent)]
    counts = [room // s + 1 if room >= 0 else 1 - (-room) // s for room, s in zip(rooms, stride)]
    padding = []
    for i in reversed(range(len(kernel))):
        covered = (counts[i] - 1) * stride[i] + extent[i]
        padding += [pad[i], max(covered - lengths[i] - pad[i], pad[i])]
    patches = F.pad(x, padding)
    for i in range(len(kernel)):
        patches = patches.unfold(axis + 1 + i, extent[i], stride[i])[..., :: dilation[i]]
    first = axis + 1
    patches = patches.permute(*range(first), *range(x.ndim, patches.ndim), *range(first, x.ndim))
    return patches.reshape(*x.shape[:axis], x.shape[axis] * math.prod(kernel), *counts)


def channels_to_cells(x, stride):
    """[N, C, H, W] to [N, C / s^2, H * s, W * s]."""
    n, channels, height, width = x.shape
    blocks = x.reshape(n, stride, stride, channels // stride**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, channels // stride**2, height * stride, width * stride)


def cells_to_channels(x, stride):
    """Darknet's reorg: [N, C, H, W] to [N, C * s^2, H / s, W / s], in an order of its own."""
    n, channels, height, width = x.shape
    blocks = x.reshape(n, channels // stride**2, height, stride, width, stride).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, channels * stride**2, height // stride, width // stride)


def empty_rows(blobs, selector):
    count = rows_of_data()
    return [blob.new_empty(count, *blob.shape[1:]) for blob in blobs]


@caffe_operator("(Tensor[] blobs, Tensor selector) -> Tensor[]", empty_rows)
def filter_rows(blobs, selector):
    """The items of each blob for which the selector, one number an item, is not 0."""
    return [blob[selector.flatten() != 0] for blob in blobs]
