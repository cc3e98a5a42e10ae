"""Gradients of whole nets in float64 against finite differences.

The published gradients of `NOT_DERIVATIVES` are not those of their forward passes (tests/reference/MNC.md, section 20);
all others are held to finite differences layer by layer, and with exact gradients the whole nets are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_scene import cfm_blobs, mnc_blobs, scene

from caffe_bridge import Net, randomness
from caffe_bridge.config import cfg
from caffe_bridge.graph import Node
from caffe_bridge.layers.functional import _rois

MODELS = Path(__file__).parent.parent / "prototxt"
NOT_DERIVATIVES = {
    "ROIWarping": "a RoI one cell too large in the backward pass; nothing in the last row and column",
    "ProposalLayer": "anchors without + 1; nothing for boxes and anchors that leave the image; limited",
    "ProposalTargetLayer": "a RoI drawn twice passes one of the two on",
    "StageBridgeLayer": "sizes from the wrong columns; corners taken for centre and size; limited",
    "MaskLayer": "nothing for masks labelled 0",
}
NETS = {
    "mnc5_tiny": set(NOT_DERIVATIVES),
    "faster_rcnn_tiny": {"ROIWarping", "ProposalLayer", "ProposalTargetLayer"},
    "cfm_tiny": set(),
}


@pytest.fixture(autouse=True)
def settings() -> None:
    cfg.TRAIN.update(
        BATCH_SIZE=12, BBOX_NORMALIZE_TARGETS_PRECOMPUTED=True, RPN_BATCHSIZE=24, RPN_MIN_SIZE=8,
        RPN_PRE_NMS_TOP_N=60, RPN_POST_NMS_TOP_N=10,
    )  # fmt: skip


def make(name: str) -> Net:
    """A train net in float64 with one image to train on, its gradients without limit."""
    path = MODELS / name / "train.prototxt"
    net = Net(path.read_text().replace("'use_clip': 1", "'use_clip': 0"), phase="TRAIN").double()
    image = scene(2, 0)
    tops = cfm_blobs(*image) if name == "cfm_tiny" else mnc_blobs(*image)
    data = net.graph.nodes[0]
    data.layer.forward = lambda: tops[: len(data.tops)]
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 1:
                parameter.normal_(0, 0.1)  # at 0 ReLU has no derivative where RoIs see nothing
            elif parameter.std() < 0.02:
                parameter.mul_(20)  # so that boxes move
    return net


def seed() -> None:
    np.random.seed(5)
    randomness.seed(5)


def kind(node: Node) -> str:
    return node.layer.param.python_param.layer if node.type == "Python" else node.type


def directional(
    values: list[torch.Tensor], gradients: list[torch.Tensor], function, step: float
) -> tuple[float, float]:
    """The slope of a function of some tensors in a random direction: from gradients, and from differences."""
    directions = [torch.randn_like(value) for value in values]
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            for value, direction in zip(values, directions):
                value.add_(direction, alpha=sign * step)
            ends.append(float(function()))
            for value, direction in zip(values, directions):
                value.sub_(direction, alpha=sign * step)
    slope = sum(float((gradient * direction).sum()) for gradient, direction in zip(gradients, directions))
    return slope, (ends[0] - ends[1]) / (2 * step)


def recorded(net: Net) -> list[tuple[Node, list[torch.Tensor]]]:
    """Every layer with something to pass a gradient to, and copies of the bottoms it got in one pass."""
    found = []

    def record(node: Node, bottoms: tuple[torch.Tensor, ...]) -> None:
        copies = [bottom.detach().clone() for bottom in bottoms]
        for copy, bottom in zip(copies, bottoms):
            if bottom.requires_grad and bottom.dim() == 4:
                copy += 0.3 * torch.randn_like(copy)  # away from 0, where ReLU and maxima of its tops have kinks
            copy.requires_grad_(bottom.requires_grad)
        if any(tensor.requires_grad for tensor in (*copies, *node.layer.parameters())):
            found.append((node, copies))

    for node in net.graph.nodes:
        node.layer.register_forward_pre_hook(lambda layer, bottoms, node=node: record(node, bottoms))
    seed()
    net()
    for node in net.graph.nodes:
        node.layer._forward_pre_hooks.clear()
    return found


@pytest.mark.parametrize("name", NETS)
def test_layers(name: str) -> None:
    """Each layer by itself, at what it is given in the net."""
    checked, skipped = set(), set()
    for node, bottoms in recorded(make(name)):
        if kind(node) in NOT_DERIVATIVES:
            skipped.add(kind(node))
            continue
        sources = [tensor for tensor in (*bottoms, *node.layer.parameters()) if tensor.requires_grad]
        weights: list[torch.Tensor] = []

        def value(node=node, bottoms=bottoms, weights=weights):
            seed()
            tops = node.layer(*bottoms)
            first = tops if isinstance(tops, torch.Tensor) else tops[0]  # what follows are targets
            if not weights:
                weights.append(torch.randn_like(first))
            return (first * weights[0]).sum()

        if value().requires_grad:
            got, want = directional(sources, list(torch.autograd.grad(value(), sources)), value, 1e-8)
            assert got == pytest.approx(want, rel=1e-5, abs=1e-5), node.name
            checked.add(kind(node))
    assert checked >= {"Convolution", "InnerProduct", "Pooling", "ReLU", "SmoothL1Loss", "SoftmaxWithLoss"}
    assert skipped == NETS[name]


@pytest.mark.parametrize("name", NETS)
def test_learnable_parameters_through_the_net(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With exact gradients; choices and targets count as constants, and where RoIs have a gradient, rounding to cells
    as the identity."""
    monkeypatch.setitem(cfg.TRAIN, "EXACT_GRADIENTS", True)
    if name == "mnc5_tiny":
        monkeypatch.setattr(_rois, "round_away", lambda values: values)
    net = make(name)
    for node in net.graph.nodes:
        if node.type == "Python":
            keep_targets(node)

    def loss() -> torch.Tensor:
        seed()
        return net.loss(net())

    loss().backward()
    for path, parameter in net.named_parameters():
        got, want = directional([parameter], [parameter.grad], loss, 1e-8)
        assert got == pytest.approx(want, rel=1e-3, abs=1e-5), path


def keep_targets(node: Node) -> None:
    """Let a layer give back the targets of its first pass, whatever it is given."""
    forward, first = node.layer.forward, []

    def frozen(*bottoms: torch.Tensor):
        tops = forward(*bottoms)
        if not first:
            first.extend(tops)
        assert [top.shape for top in tops] == [top.shape for top in first]
        return (tops[0], *first[1:])

    if len(node.tops) > 1 and node.bottoms and kind(node) != "AnchorTargetLayer":
        node.layer.forward = frozen
