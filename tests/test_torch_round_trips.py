"""PyTorch nets made Caffe nets, and PyTorch source again, compute what they computed.

The nets are those of prototxt/ as stand-alone PyTorch. ZOO=1 takes the large ones too (some minutes of one core).
"""

from __future__ import annotations

import os
from collections import Counter

import onnx_cases
import pytest
import torch
from test_caffe_import_round_trips import zoo

import caffe_bridge
from caffe_bridge.convert.caffe_import import import_program
from caffe_bridge.convert.model import Model
from caffe_bridge.convert.onnx_export.verification import difference
from caffe_bridge.convert.onnx_files import build_net
from caffe_bridge.convert.torch_export import torch_module

TOLERANCE = 1e-4
SMALL = ["lenet", "squeezenet", "mobilenet_v2", "faster_rcnn_tiny", "mnc5_tiny"]
LARGE = ["alexnet", "googlenet", "vgg16", "resnet50", "mobilenet", "densenet121", "inception_v3", "unet", "fcn8s"]
LARGE += ["ssd300", "mnc5"]
SIZES = {"unet": 188, "fcn8s": 64, "mnc5": 224}
"""Sides of smaller images for nets that take any."""
WHOLE = ["DetectionOutput", "PriorBox", "ProposalLayer", "ROIPooling", "ROIWarping", "MaskResize", "MaskPooling"]
WHOLE += ["StageBridgeLayer"]
"""Layers that come back as themselves."""


def there_and_back(net: caffe_bridge.Net, inputs: dict[str, torch.Tensor]) -> Model:
    """Caffe, as PyTorch source; that, through torch.export, as Caffe; and as PyTorch source again: all alike."""
    module = torch_module(net).module()
    arguments = tuple(inputs[name] for name in net.inputs)
    model = import_program(torch.export.export(module, arguments), dialect="caffe-bridge")
    made = build_net(model)
    again = torch_module(made).module()
    with torch.no_grad():
        wanted, caffe, found = module(*arguments), made(**dict(zip(made.inputs, arguments))), again(*arguments)
    results = [values if isinstance(values, dict) else {"": values} for values in (wanted, caffe, found)]
    if len(caffe) == 1:
        results = [{"": value} for values in results for value in values.values()]
    assert set(results[0]) == set(results[1]) == set(results[2]) and len(results) == 3
    for name, expected in results[0].items():
        for other in results[1:]:
            assert difference(other[name].numpy(), expected.numpy()) <= TOLERANCE, name
    return model


@pytest.mark.parametrize("name", onnx_cases.names())
def test_recorded_case(name):
    case = onnx_cases.load(name)
    with case.configured():
        net = case.net()
        there_and_back(net, {blob: torch.from_numpy(case.inputs[blob].astype("f")) for blob in net.inputs})


def inputs_for(net: caffe_bridge.Net, name: str) -> dict[str, torch.Tensor]:
    image, *info = net.inputs
    _, channels, height, width = net.graph.shapes[image]
    side = SIZES.get(name)
    inputs = {image: torch.randn(1, channels, side or height, side or width)}
    return inputs | {blob: torch.tensor([[*inputs[image].shape[2:], 1.0]]) for blob in info}


@pytest.mark.parametrize("name", SMALL + (LARGE if os.environ.get("ZOO") else []))
def test_zoo(name):
    net = zoo(name)
    model = there_and_back(net, inputs_for(net, name))
    here, there = (
        Counter(layer.python_param.layer or layer.type for layer in found.layer)
        for found in (net.definition.param, model.definition)
    )
    assert all(here[name] == there[name] for name in WHOLE)
