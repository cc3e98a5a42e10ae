"""Normalisation and softmax: ONNX operators as those of operators.py."""

from __future__ import annotations

import math

from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Value
from caffe_bridge.convert.caffe_import.onnx_node import OnnxNode
from caffe_bridge.convert.caffe_import.onnx_operators.registry import Inputs, converts, optional
from caffe_bridge.convert.caffe_import.problems import Unsupported


@converts("BatchNormalization")
def batch_normalization(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """With running statistics."""
    if node.get("training_mode", 0) or node.outputs > 1 and not node.get("is_test", 1):
        raise Unsupported("normalises by the batch's own statistics", "export the model for inference")
    return b.batch_norm(inputs[0], inputs[1:5], node.get("epsilon", 1e-5))


@converts("InstanceNormalization")
def instance_normalization(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Each channel of each image."""
    return b.group_norm(inputs[0], inputs[0].shape[1], inputs[1], inputs[2], node.get("epsilon", 1e-5))


@converts("GroupNormalization")
def group_normalization(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Channels in groups."""
    x, groups = inputs[0], node["num_groups"]
    parameters = [value.constant("the parameters of a group normalisation") for value in inputs[1:3]]
    if node.opset < 21:
        parameters = [array.repeat(max(1, x.shape[1] // max(1, array.size))) for array in parameters]
    scale, shift = (b.constant(array) for array in parameters)
    return b.group_norm(x, groups, scale, shift, node.get("epsilon", 1e-5))


@converts("LayerNormalization")
def layer_normalization(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """The last axes."""
    ndim = len(inputs[0].shape)
    count = ndim - b.axis(node.get("axis", -1), ndim)
    return b.layer_norm(inputs[0], count, inputs[1], optional(inputs, 2), node.get("epsilon", 1e-5))


@converts("LRN")
def lrn(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Local response normalisation across channels."""
    alpha, beta, k = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    if node["size"] % 2 == 0:
        raise Unsupported(f"normalises over {node['size']} channels", "give an odd number")
    return b.add("lrn", inputs[0], size=node["size"], alpha=alpha, beta=beta, k=k)


@converts("LpNormalization")
def lp_normalization(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Divided by the L1 or L2 norm along an axis."""
    kind = "l1" if node.get("p", 2) == 1 else "l2"
    return b.add("div", inputs[0], b.reduce(kind, inputs[0], [node.get("axis", -1)], True))


@converts("Softmax", "LogSoftmax")
def softmax(b: Builder, node: OnnxNode, inputs: Inputs) -> Value:
    """Along one axis; before opset 13 over all axes from one on."""
    x, logarithm = inputs[0], node.operator == "LogSoftmax"
    if node.opset >= 13:
        return b.softmax(x, node.get("axis", -1), logarithm)
    axis = b.axis(node.get("axis", 1), len(x.shape))
    rows = b.reshape(x, [*x.shape[:axis], math.prod(x.shape[axis:])])
    return b.reshape(b.softmax(rows, axis, logarithm), x.shape)
