"""The mask layers of MNC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from caffe_bridge.config import cfg
from caffe_bridge.convert.onnx_export.builder import GraphBuilder, array_of
from caffe_bridge.convert.onnx_export.registry import ExportedLayer, exports
from caffe_bridge.convert.onnx_export.sizes import fixed
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Shape
from caffe_bridge.layers.functional import mask_resize as resized


def _mask_shapes(layer: Any, bottoms: list[Shape], rows: int) -> list[Shape]:
    count, *size = bottoms[0]
    if int(np.prod(size)) != cfg.MASK_SIZE**2:
        raise LayerError(f"with cfg.MASK_SIZE {cfg.MASK_SIZE} masks have {cfg.MASK_SIZE**2} values, not {size}")
    return [(count, 1, cfg.MASK_SIZE, cfg.MASK_SIZE)]


@exports("pylayer.mask_layer.MaskLayer", shapes=_mask_shapes)
def mask_layer(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Rows of numbers as images."""
    return [graph.add("Reshape", bottoms[0], graph.integers(-1, 1, cfg.MASK_SIZE, cfg.MASK_SIZE))]


@exports("MaskPooling")
def mask_pooling(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """The product with a mask shared by all channels."""
    return [graph.add("Mul", *bottoms)]


@exports("MaskResize")
def mask_resize(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Two products with the matrices of weights that bilinear resizing without half-pixel offsets has."""
    height, width = fixed(node.bottoms[0][2:], "the masks' sizes")
    rows, columns = (_weights(size, to) for size, to in zip((height, width), node.layer.size))
    turned = graph.add("MatMul", graph.constant(rows), bottoms[0])
    return [graph.add("MatMul", turned, graph.constant(columns.T))]


def _weights(size: int, to: int) -> np.ndarray:
    """How much each of `to` output cells reads of each of `size` input ones, (to, size): a resized unit matrix."""
    return array_of(resized(torch.eye(size)[:, None, :, None], (to, 1)))[:, 0, :, 0].T
