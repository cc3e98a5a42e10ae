"""PyTorch nets made Caffe nets, and PyTorch source again, compute what they computed.

The nets are those of prototxt/ as stand-alone PyTorch. ZOO=1 takes the large ones too (some minutes of one core).
"""

from __future__ import annotations

import os

import pytest
import torch
from test_caffe_import_round_trips import zoo

from caffe_bridge.convert.caffe_import import import_program
from caffe_bridge.convert.model import Model
from caffe_bridge.convert.onnx_export.verification import difference
from caffe_bridge.convert.onnx_files import build_net
from caffe_bridge.convert.surgery import cut, prune
from caffe_bridge.convert.torch_export import torch_module

TOLERANCE = 1e-4
SMALL = ["lenet", "squeezenet", "mobilenet_v2"]
LARGE = ["alexnet", "googlenet", "vgg16", "resnet50", "mobilenet", "densenet121", "inception_v3", "unet", "fcn8s"]
SIZES = {"unet": 188, "fcn8s": 64}
"""Sides of smaller images for nets that take any."""


def there_and_back(net: torch.nn.Module, image: torch.Tensor) -> None:
    module = torch_module(net).module()
    program = torch.export.export(module, (image,))
    made = build_net(import_program(program, dialect="caffe-bridge"))
    again = torch_module(made).module()
    with torch.no_grad():
        wanted, caffe, found = module(image), made(**{made.inputs[0]: image}), again(image)
    results = [_by_size(torch.utils._pytree.tree_leaves(result)) for result in (wanted, dict(caffe), found)]
    assert len({len(result) for result in results}) == 1 and results[0]
    for expected, *others in zip(*results):
        for other in others:
            assert difference(other.numpy(), expected.numpy()) <= TOLERANCE


def _by_size(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """A program's outputs have other names than the net's; these differ in size."""
    return sorted(outputs, key=torch.numel)


def image_for(net: torch.nn.Module, name: str) -> torch.Tensor:
    (blob,) = net.inputs
    _, channels, height, width = net.graph.shapes[blob]
    side = SIZES.get(name)
    return torch.randn(1, channels, side or height, side or width)


@pytest.mark.parametrize("name", SMALL + (LARGE if os.environ.get("ZOO") else []))
def test_zoo(name):
    net = zoo(name)
    there_and_back(net, image_for(net, name))


PARTS = {
    "ssd300": (["mbox_loc", "mbox_conf_flatten"], 300),
    "mnc5": (["rpn_cls_prob_reshape", "rpn_bbox_pred", "conv5_3"], 96),
}
"""Blobs up to which nets that choose boxes go, and the side of their image."""


@pytest.mark.skipif(not os.environ.get("ZOO"), reason="large nets: ZOO=1")
@pytest.mark.parametrize("name", PARTS)
def test_detectors_up_to_their_boxes(name):
    """torch.export takes no net whose sizes depend on data: layers from the first that chooses boxes on stay behind."""
    net = zoo(name)
    blobs, side = PARTS[name]
    layers = {node.name: list(node.layer.blobs) for node in net.graph.nodes if node.layer.blobs}
    part = build_net(prune(cut(Model(name, layers, net.definition.param), blobs)))
    there_and_back(part, torch.randn(1, 3, side, side))
