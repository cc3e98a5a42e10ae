"""PriorBox."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from caffe_bridge.convert.onnx_export.builder import GraphBuilder, array_of
from caffe_bridge.convert.onnx_export.registry import ExportedLayer, exports
from caffe_bridge.convert.onnx_export.sizes import fixed


@exports("PriorBox")
def prior_box(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """A constant, since boxes depend on nothing but the sizes of the feature map and the image."""
    sizes = [fixed(dims[2:], "the sizes of feature map and image") for dims in node.bottoms]
    return [graph.constant(array_of(node.layer(*(torch.empty(1, 1, *size) for size in sizes))))]
