"""Layers that move values without changing them."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_bridge.convert.torch_export.registry import WrittenLayer, writes
from caffe_bridge.convert.torch_export.source import ModuleSource
from caffe_bridge.layers.base import canonical_axis


@writes("Reshape")
def reshape(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Tensor.reshape; dims that stay are read from the bottom."""
    layer, x, ndim = node.layer, bottoms[0], len(node.bottoms[0])
    start = layer.axis if layer.axis >= 0 else ndim + layer.axis + 1
    end = ndim if layer.num_axes == -1 else start + layer.num_axes
    middle = [f"{x}.shape[{start + i}]" if dim == 0 else str(dim) for i, dim in enumerate(layer.dims)]
    dims = [*(f"{x}.shape[{i}]" for i in range(start)), *middle, *(f"{x}.shape[{i}]" for i in range(end, ndim))]
    return f"{x}.reshape({', '.join(dims) or '()'})"


@writes("Flatten")
def flatten(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """torch.flatten."""
    ndim = len(node.bottoms[0])
    start, end = (canonical_axis(axis, ndim) for axis in (node.layer.axis, node.layer.end_axis))
    if start > end:
        return f"{bottoms[0]}.unsqueeze({start})"
    return f"torch.flatten({bottoms[0]}, {start}{'' if end == ndim - 1 else f', {end}'})"


@writes("Split")
def split(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Several names for one tensor."""
    return ", ".join(list(bottoms) * len(node.tops))


@writes("Silence")
def silence(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Nothing."""
    return ""


@writes("Concat")
def concat(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """torch.cat."""
    axis = canonical_axis(node.layer.axis, len(node.bottoms[0]))
    return bottoms[0] if len(bottoms) == 1 else f"torch.cat(({', '.join(bottoms)}), {axis})"


@writes("Slice")
def slice_(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """torch.split."""
    axis = canonical_axis(node.layer.axis, len(node.bottoms[0]))
    if len(node.tops) == 1:
        return bottoms[0]
    return f"torch.split({bottoms[0]}, {[shape[axis] for shape in node.tops]}, {axis})"


@writes("Permute")
def permute(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Tensor.permute."""
    return f"{bottoms[0]}.permute({', '.join(map(str, node.layer.order))})"


@writes("Crop")
def crop(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Indexing by slices of the second bottom's size."""
    x, reference = bottoms
    ndim = len(node.bottoms[0])
    first = canonical_axis(node.layer.axis, ndim)
    offsets = node.layer.offset or [0]
    offsets = offsets * (ndim - first) if len(offsets) == 1 else offsets
    slices = [":"] * first
    for axis, start in enumerate(offsets, first):
        size = f"{reference}.shape[{axis}]"
        slices.append(f"{start} : {start} + {size}" if start else f": {size}")
    return f"{x}[{', '.join(slices)}]"


@writes("Tile")
def tile(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Tensor.repeat."""
    ndim = len(node.bottoms[0])
    axis = canonical_axis(node.layer.axis, ndim)
    return f"{bottoms[0]}.repeat({', '.join(str(node.layer.tiles if i == axis else 1) for i in range(ndim))})"


@writes("ShuffleChannel")
def shuffle_channel(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Channels of the groups dealt out in turn."""
    images = bottoms[0] + ".unsqueeze(-1)" * (4 - len(node.bottoms[0]))
    if len(node.bottoms[0]) == 4:
        return code.module(f"nn.ChannelShuffle({node.layer.group})", images)
    return f"{images}.unflatten(1, ({node.layer.group}, -1)).transpose(1, 2).flatten(1, 2)"


@writes("Reorg")
def reorg(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Cells to channels as darknet has it, or with `reverse` channels to cells."""
    name = "channels_to_cells" if node.layer.reverse else "cells_to_channels"
    return f"{code.part(name)}({bottoms[0]}, {node.layer.stride})"
