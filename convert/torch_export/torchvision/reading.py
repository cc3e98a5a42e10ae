"""The structure of a Caffe net, in the terms torchvision's networks are sketched in."""

from __future__ import annotations

from typing import Any

import torch

from caffe_bridge.convert.surgery.linear import CONVOLUTIONS
from caffe_bridge.convert.torch_export.torchvision.sketch import Edge, Pool, Step
from caffe_bridge.errors import CaffeError
from caffe_bridge.graph import Node
from caffe_bridge.layers.base import Shape, canonical_axis
from caffe_bridge.layers.bn import SegNetBN
from caffe_bridge.net import Net

_NOTHING = ("Dropout", "Flatten", "Reshape", "Split")
_POOLS = {0: "max", 1: "average", 2: "stochastic"}


def read_structure(net: Net) -> Edge:
    """The structure of a net with one output and one image as input.

    A BatchNorm and the Scale behind it are one step. Dropout and changes of shape alone do nothing.

    Raises CaffeError for a net with other inputs or outputs.
    """
    outputs = list(dict.fromkeys(net.outputs))
    if len(outputs) != 1 or len(net.inputs) != 1:
        names = ", ".join((*net.inputs, *outputs))
        raise CaffeError(f"a classifier has one input and one output; this net has {names}; cut it (--cut, --prune)")
    values: dict[str, Edge] = {net.inputs[0]: Edge(Step("input", net.inputs[0]))}
    for node in net.graph.nodes:
        if node.type == "Input":
            continue
        bottoms = [values[blob] for blob in node.bottoms]
        made = _read(node, bottoms, [net.graph.shapes[blob] for blob in node.bottoms])
        values.update(dict.fromkeys(node.tops, made))
    return values[outputs[0]]


def _read(node: Node, bottoms: list[Edge], shapes: list[Shape]) -> Edge:
    layer: Any = node.layer
    if node.type in _NOTHING:
        return bottoms[0]
    if node.type in CONVOLUTIONS and layer.axis == 1:
        names = ("stride", "pad", "dilation")
        options = {**{name: tuple(getattr(layer, name)) for name in names}, "groups": layer.group}
        return _filter(node, bottoms, tuple(layer.blobs[0].shape), options, layer.blobs[0])
    if node.type == "InnerProduct" and canonical_axis(layer.axis, len(shapes[0])) == 1:
        weight = layer.blobs[0].t() if layer.transpose else layer.blobs[0]
        return _filter(node, bottoms, tuple(weight.shape), {"groups": 1}, weight)
    if node.type == "BatchNorm" and layer.use_global_stats:
        mean, variance, share = layer.blobs
        share = torch.where(share == 0, 0, 1 / share)
        return _norm(node, bottoms, {"running_mean": mean * share, "running_var": variance * share})
    if node.type == "BN" and not isinstance(layer, SegNetBN):
        keys = ("weight", "bias", "running_mean", "running_var")
        return _norm(node, bottoms, {key: blob.flatten() for key, blob in zip(keys, layer.blobs)})
    if node.type == "Scale" and _completes(bottoms, layer):
        step = bottoms[0].source
        step.blobs["weight"] = layer.blobs[0]
        if layer.with_bias:
            step.blobs["bias"] = layer.blobs[1]
        return bottoms[0]
    if node.type == "Pooling" and not layer.masked:
        return bottoms[0].through(_pool(layer, shapes[0]))
    if node.type == "Eltwise" and layer.operation == "SUM" and set(layer.coefficients) <= {1.0}:
        return Edge(Step("add", node.name, inputs=bottoms))
    if node.type == "Concat" and canonical_axis(layer.axis, len(shapes[0])) == 1:
        return Edge(Step("concat", node.name, inputs=bottoms))
    if len(bottoms) == 1 and not len(layer.blobs):
        plain = node.type != "ReLU" or not layer.negative_slope
        return bottoms[0].through(node.type if plain else "leaky ReLU")
    return Edge(Step(node.type, node.name, inputs=bottoms))


def _filter(
    node: Node, bottoms: list[Edge], shape: tuple[int, ...], options: dict[str, Any], weight: torch.Tensor
) -> Edge:
    blobs = {"weight": weight}
    if len(node.layer.blobs) > 1:
        blobs["bias"] = node.layer.blobs[1]
    if len(bottoms) > 1:
        return Edge(Step(f"{node.type} of several bottoms", node.name, inputs=bottoms))
    return Edge(Step("filter", node.name, shape, {**options, "bias": "bias" in blobs}, bottoms, blobs))


def _norm(node: Node, bottoms: list[Edge], blobs: dict[str, torch.Tensor]) -> Edge:
    layer: Any = node.layer
    return Edge(Step("norm", node.name, (layer.channels,), {"eps": float(layer.eps)}, bottoms, blobs))


def _completes(bottoms: list[Edge], layer: Any) -> bool:
    """Whether a Scale layer is the learned part of the normalisation before it."""
    (edge, *others) = bottoms
    step = edge.source
    per_channel = layer.learned and layer.axis == 1 and layer.blobs[0].ndim == 1
    return not others and not edge.passed and step.kind == "norm" and "weight" not in step.blobs and per_channel


def _pool(layer: Any, shape: Shape) -> Pool:
    kind, size, windows = _POOLS[layer.method], (shape[2], shape[3]), layer.windows
    if layer.whole_image or (tuple(windows.kernel) == size and not any(windows.pad)):
        return Pool(kind)
    rounded = windows._replace(ceil=not windows.ceil).output_size(size) == windows.output_size(size)
    pools = (tuple(windows.kernel), tuple(windows.stride), tuple(windows.pad))
    return Pool(kind, *pools, ceil=windows.ceil, same_rounded=rounded)
