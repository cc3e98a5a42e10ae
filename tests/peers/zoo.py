"""The nets that are compared, with seeded weights under which no output is degenerate."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import caffe_bridge
from caffe_bridge.config import cfg
from caffe_bridge.convert.onnx_export.verification import random_inputs
from caffe_bridge.definition import read_net
from caffe_bridge.graph import Node

PROTOTXT = Path(__file__).parents[2] / "prototxt"
SPREAD = 3.0
"""Deviation of the scores that a softmax over many classes reads; of boxes it is BOXES, of everything else 1."""
BOXES = 0.2

_CARRIERS = {"Concat", "Flatten", "Permute", "Pooling", "ReLU", "Reshape", "Split"}


@dataclass
class Entry:
    """A net of prototxt/: its file, inputs of other shapes than there, and what is compared besides its outputs.

    `proposals` is how many it makes at most. `caffe` is false where its Python layers are nothing that OpenCV 4 knows.
    """

    file: str = "deploy.prototxt"
    shapes: Mapping[str, list[int]] = field(default_factory=dict)
    more: tuple[str, ...] = ()
    proposals: int = 300
    caffe: bool = True


ZOO = {
    "lenet": Entry(),
    "cifar10_full": Entry(),
    "alexnet": Entry(shapes={"data": [2, 3, 227, 227]}),
    "caffenet": Entry(shapes={"data": [2, 3, 227, 227]}),
    "googlenet": Entry(shapes={"data": [1, 3, 224, 224]}),
    "vgg16": Entry(shapes={"data": [1, 3, 224, 224]}),
    "resnet50": Entry(shapes={"data": [1, 3, 224, 224]}),
    "squeezenet": Entry(),
    "mobilenet": Entry(),
    "mobilenet_v2": Entry(),
    "densenet121": Entry(),
    "inception_v3": Entry(),
    "unet": Entry(shapes={"data": [1, 1, 188, 188]}),
    "fcn8s": Entry(shapes={"data": [1, 3, 160, 128]}),
    "ssd300": Entry(),
    "faster_rcnn": Entry("test.prototxt", {"data": [1, 3, 224, 288]}, ("rois",), caffe=False),
    "mnc5": Entry("test.prototxt", {"data": [1, 3, 224, 288]}, ("rois",), 40, caffe=False),
    "faster_rcnn_tiny": Entry("test.prototxt", more=("rois",), caffe=False),
    "cfm_tiny": Entry("test.prototxt", {"rois": [20, 5], "masks": [20, 1, 14, 14]}, caffe=False),
    "mnc5_tiny": Entry("test.prototxt", more=("rois",), caffe=False),
}


def load(name: str) -> tuple[caffe_bridge.Net, dict[str, np.ndarray]]:
    """A net of the zoo, its weights drawn, and its inputs."""
    entry = ZOO[name]
    cfg.TEST.RPN_POST_NMS_TOP_N = entry.proposals
    definition = read_net(PROTOTXT / name / entry.file, "TEST")
    for layer in definition.param.layer:
        for top, shape in zip(layer.top, layer.input_param.shape):
            shape.dim[:] = entry.shapes.get(top, shape.dim)
    net = caffe_bridge.Net(definition)
    inputs = random_inputs(net)
    inputs["data"] *= 50
    draw(net, inputs)
    return net, inputs


@torch.no_grad()
def draw(net: caffe_bridge.Net, inputs: Mapping[str, np.ndarray]) -> None:
    """Set the parameters, layer by layer, so that on these inputs the tops of layers with filters have a deviation
    chosen for them, and running statistics are those of the bottoms.
    """
    scores = _read_by_softmax(net.graph.nodes)
    values = {name: torch.from_numpy(array) for name, array in inputs.items()}
    for node in net.graph.nodes:
        if node.type == "Input":
            continue
        bottoms = [values[blob] for blob in node.bottoms]
        own = [owner == (node.name, i) for i, owner in enumerate(net.graph.owners.get(node.name, ()))]
        if any(own):
            _draw_layer(node, bottoms, scores)
        tops = node.layer(*bottoms)
        values.update(zip(node.tops, (tops,) if isinstance(tops, torch.Tensor) else tops))


def _draw_layer(node: Node, bottoms: list[torch.Tensor], scores: set[str]) -> None:
    generator = torch.Generator().manual_seed(zlib.crc32(node.name.encode()))
    blobs = list(node.layer.blobs)
    if node.type == "BatchNorm":
        mean, variance, factor = blobs
        factor.fill_(2)
        channels = bottoms[0].transpose(0, 1).flatten(1)
        mean.copy_(2 * channels.mean(1))
        variance.copy_(2 * channels.var(1) + 0.5)
    elif node.type in ("Convolution", "Deconvolution", "InnerProduct"):
        blobs[0].normal_(0, (2 / blobs[0][0].numel()) ** 0.5, generator=generator)
        for bias in blobs[1:]:
            bias.normal_(0, 0.1, generator=generator)
        top = node.layer(*bottoms)
        spread = BOXES if "bbox" in node.name else 1.0
        if node.tops[0] in scores and "rpn" not in node.name:
            spread = SPREAD
        for blob in blobs:
            blob.mul_(spread / float(top.std()))
    else:
        for blob, start in zip(blobs, (1, 0)):
            blob.uniform_(-0.3, 0.3, generator=generator).add_(start)


def _read_by_softmax(nodes: list[Node]) -> set[str]:
    """The blobs that reach a softmax through layers that only move values."""
    found: set[str] = set()
    for node in reversed(nodes):
        if node.type == "Softmax" or (node.type in _CARRIERS and found & set(node.tops)):
            found.update(node.bottoms)
    return found
