"""MNC on residual nets: the ImageNet weights are a whole start, and what is frozen stays."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from small_run import SmallRun, read_all

import caffe_bridge
from caffe_bridge import text_format
from caffe_bridge.cli import run
from caffe_bridge.tools import test_net, train_net
from caffe_bridge.tools.models import mnc_resnet, zoo_blocks
from caffe_bridge.tools.models.catalogue import DEFINITIONS
from caffe_bridge.tools.models.render import net_message
from caffe_bridge.tools.models.resnet import RESNET50, RESNET101, ResNet
from caffe_bridge.weights import read

THIN = ResNet((2, 1, 1, 2), conv1_bias=True, width=4)
RESNETS = {"mnc5_resnet50": RESNET50, "mnc5_resnet101": RESNET101}


def classifier(resnet):
    return zoo_blocks.deploy("classifier", (1, 3, 224, 224), resnet.classifier)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """The weights of a thin classifier, as if it had been trained."""
    net = caffe_bridge.Net(classifier(THIN))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, blobs in net.params.items():
            for blob in blobs:
                blob.normal_(0, 0.3 if name.startswith("res") else 0.1)
            if name.startswith("bn"):
                blobs[1].uniform_(0.5, 2)
                blobs[2].fill_(1)
            elif name.startswith("scale"):
                blobs[0].uniform_(0.5, 1)
    path = tmp_path_factory.mktemp("imagenet") / "thin.caffemodel"
    net.save(path)
    return path


@pytest.fixture(scope="module")
def thin(tmp_path_factory):
    """A folder with the thin cascade's train and test nets, for five classes."""
    folder = tmp_path_factory.mktemp("thin")
    made = DEFINITIONS["mnc5_resnet50"]
    sizes = {"classes": 5, "anchor_scales": (1, 2, 3), "rpn_channels": 8, "mask_hidden": 8}
    model = replace(made.model, trunk=partial(mnc_resnet.trunk, THIN), **sizes)
    made = replace(made, net=partial(mnc_resnet.net, THIN), model=model)
    for phase in ("train", "test"):
        message = net_message(made, train=phase == "train")
        (folder / f"{phase}.prototxt").write_text(text_format.format(message))
    return folder


@pytest.mark.parametrize("phase", ["train", "test"])
@pytest.mark.parametrize("name", RESNETS)
def test_every_layer_of_the_classifier_but_the_last_is_in_the_cascade(name, phase):
    cascade = {layer.name: layer for layer in net_message(DEFINITIONS[name], train=phase == "train").layer}
    weights = ("convolution_param", "scale_param", "batch_norm_param")
    for layer in classifier(RESNETS[name]).layer:
        if layer.type in ("Convolution", "BatchNorm", "Scale"):
            assert all(getattr(cascade[layer.name], field) == getattr(layer, field) for field in weights), layer.name


@pytest.mark.parametrize("name", RESNETS)
def test_training_leaves_the_first_stages_and_all_normalisation_alone(name):
    for layer in net_message(DEFINITIONS[name], train=True).layer:
        if layer.type in ("BatchNorm", "Scale") or layer.name.startswith(("conv1", "res2")) and layer.param:
            assert len(layer.param) == {"BatchNorm": 3, "Scale": 2}.get(layer.type, len(layer.param))
            assert all(spec.lr_mult == 0 == spec.decay_mult for spec in layer.param), layer.name
        elif layer.type in ("Convolution", "InnerProduct"):
            assert layer.param[0].lr_mult == 1, layer.name


def test_shapes_of_the_published_size():
    net = caffe_bridge.graph.build_graph(
        caffe_bridge.definition.read_net(net_message(DEFINITIONS["mnc5_resnet50"], train=False), "TEST"), "TEST"
    )
    assert net.shapes["res4f"] == (1, 1024, 14, 14)
    for suffix in ("", "_ext"):
        assert net.shapes[f"roi_interpolate_conv5{suffix}"][1:] == (1024, 14, 14)
        assert net.shapes[f"res5c_mask{suffix}"][1:] == (2048, 7, 7)
        assert net.shapes[f"join_box_mask{suffix}"][1:] == (4096, 1, 1)


def test_imagenet_weights_reach_every_pathway(thin, imagenet):
    net = caffe_bridge.Net(thin / "train.prototxt", imagenet, phase="TRAIN")
    with read(imagenet) as source:
        expected = {name: arrays for name, arrays in source.layers.items() if arrays and name != "fc1000"}
    assert any(name.startswith("res4") for name in expected)
    for name, arrays in expected.items():
        suffixes = ("", "_mask", "_ext", "_mask_ext") if name.startswith(("res5", "bn5", "scale5")) else ("",)
        for suffix in suffixes:
            for blob, values in zip(net.params[name + suffix], arrays, strict=True):
                np.testing.assert_array_equal(blob.detach(), values)
    assert net.params["res5a_branch1"][0] is net.params["res5a_branch1_mask_ext"][0]


def test_a_training_run_and_its_test(thin, imagenet, tmp_path, capsys):
    small = SmallRun(tmp_path, images=2)
    arguments = small.training("resnet", 2, "--weights", str(imagenet), train=thin / "train.prototxt")
    assert run(train_net.main, arguments) == 0
    before, after = read_all(imagenet), read_all(small.snapshot("resnet", 2))
    changed = {name for name in before.keys() & after.keys() if not np.array_equal(before[name], after[name])}
    frozen = ("conv1", "res2", "bn", "scale")
    assert changed == {name for name in before if not name.startswith((*frozen, "fc1000"))}
    assert all(np.isfinite(values).all() for values in after.values())
    capsys.readouterr()
    arguments = small.testing("resnet", small.snapshot("resnet", 2), test=thin / "test.prototxt")
    assert run(test_net.main, arguments) == 0
    assert "mAP^r@0.5 = " in capsys.readouterr().out
