"""Layers that make images larger or smaller."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_bridge.convert.torch_export.registry import WrittenLayer, writes
from caffe_bridge.convert.torch_export.source import Expression, ModuleSource, call


@writes("Interp")
def interp(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """F.interpolate with corners in place, after cropping."""
    layer, x = node.layer, bottoms[0]
    if layer.begin or layer.end:
        inner = f"{layer.begin or ''}:{-layer.end or ''}"
        x = f"{x}[:, :, {inner}, {inner}]"
    if layer.fixed:
        return f'F.interpolate({x}, {tuple(layer.fixed)}, mode="bilinear", align_corners=True)'
    return f"{code.part('resize_by_factors')}({x}, shrink={layer.shrink}, zoom={layer.zoom})"


@writes("Upsample")
def upsample(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.Upsample for YOLO's repetition of cells; SegNet's unpooling."""
    if node.layer.unpools:
        size, note = tuple(node.layer.size), code.note(node)
        return call(code.part("unpool"), *map(Expression, bottoms[:2]), size, layer=note)
    return code.module(f"nn.Upsample(scale_factor={node.layer.scale})", *bottoms)


@writes("MaskResize")
def mask_resize(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Bilinear sampling without half-pixel offsets."""
    size, note = tuple(node.layer.size), code.note(node)
    return call(code.part("mask_resize"), Expression(bottoms[0]), size, layer=note)


@writes("MaskPooling")
def mask_pooling(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """A product."""
    return f"{bottoms[0]} * {bottoms[1]}"
