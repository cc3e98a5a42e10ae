"""Layers with learned filters: convolutions, fully connected layers and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from caffe_bridge.convert.onnx_export.builder import GraphBuilder
from caffe_bridge.convert.onnx_export.registry import ExportedLayer, exports
from caffe_bridge.convert.onnx_export.sizes import Dims, fixed
from caffe_bridge.layers.base import canonical_axis


@exports("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")
def convolution(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Conv; a kernel that overhangs a small image by less than a stride reads zeros there, as in Caffe."""
    layer = node.layer
    ends = list(layer.pad)
    for i, size in enumerate(node.shapes[0][layer.axis + 1 :]):
        lacking = layer.dilation[i] * (layer.kernel[i] - 1) + 1 - size - 2 * layer.pad[i]
        if 0 < lacking < layer.stride[i]:
            fixed(node.bottoms[0][layer.axis + 1 :], "the image's sizes")
            ends[i] += lacking
    return [_filtered(graph, node, "Conv", bottom, ends) for bottom in bottoms]


@exports("Deconvolution")
def deconvolution(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """ConvTranspose."""
    return [_filtered(graph, node, "ConvTranspose", bottom, node.layer.pad) for bottom in bottoms]


def _filtered(graph: GraphBuilder, node: ExportedLayer, operator: str, bottom: str, ends: Sequence[int]) -> str:
    layer = node.layer
    weight = graph.weight(layer, 0)
    parameters = [graph.weight(layer, i) for i in range(1, len(layer.blobs))]
    geometry: dict[str, Any] = {
        "kernel_shape": layer.kernel,
        "strides": layer.stride,
        "dilations": layer.dilation,
        "pads": [*layer.pad, *ends],
        "group": layer.group,
    }
    if layer.axis == 1 and not layer.pointwise:
        return graph.add(operator, bottom, weight, *parameters, **geometry)
    spatial: Dims = (1,) if layer.pointwise else node.bottoms[0][layer.axis + 1 :]
    if layer.pointwise:
        weight = graph.add("Unsqueeze", weight, graph.integers(2))
    images = graph.reshape(bottom, [-1, layer.channels, *spatial])
    return graph.reshape(graph.add(operator, images, weight, *parameters, **geometry), node.tops[0])


@exports("Im2col")
def im2col(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Conv with a filter for each position of the kernel that has a 1 there."""
    layer = node.layer
    channels, *size = fixed(node.bottoms[0][layer.axis :], "channels and image's sizes")
    out = fixed(node.tops[0][layer.axis + 1 :])
    covered = ((n - 1) * stride + extent for n, stride, extent in zip(out, layer.stride, layer.extent))
    ends = [max(pad, cells - length - pad) for cells, length, pad in zip(covered, size, layer.pad)]
    volume = math.prod(layer.kernel)
    weight = np.tile(np.eye(volume).reshape(volume, 1, *layer.kernel), (channels, *[1] * (len(size) + 1)))
    images = graph.reshape(bottoms[0], [-1, channels, *size])
    patches = graph.add(
        "Conv",
        images,
        graph.constant(weight),
        kernel_shape=layer.kernel,
        strides=layer.stride,
        dilations=layer.dilation,
        pads=[*layer.pad, *ends],
        group=channels,
    )
    return [graph.reshape(patches, node.tops[0])]


@exports("InnerProduct")
def inner_product(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Gemm over everything from `axis` on."""
    layer, dims = node.layer, node.bottoms[0]
    axis = canonical_axis(layer.axis, len(dims))
    rows = bottoms[0] if axis == 1 and len(dims) == 2 else graph.add("Flatten", bottoms[0], axis=axis)
    parameters = [graph.weight(layer, i) for i in range(len(layer.blobs))]
    top = graph.add("Gemm", rows, *parameters, transB=int(not layer.transpose))
    return [top if len(node.tops[0]) == 2 else graph.reshape(top, node.tops[0])]


@exports("Embed")
def embed(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Rows of a table."""
    index = graph.add("Cast", bottoms[0], to=TensorProto.INT64)
    top = graph.add("Gather", graph.weight(node.layer, 0), index, axis=0)
    return [graph.add("Add", top, graph.weight(node.layer, 1)) if len(node.layer.blobs) > 1 else top]


@exports("Parameter")
def parameter(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """The learned blob itself."""
    return [graph.weight(node.layer, 0)]
