"""Every definition by the name of its directory in prototxt/."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec

from . import cfm, faster_rcnn, mnc, mnc_resnet, trunks
from .model import Model
from .resnet import RESNET50, RESNET101, ResNet


@dataclass(frozen=True)
class Definition:
    """A network with its solver.

    Attributes:
        about: what it is, for the files' headers.
        paper: where it was published.
        net: makes the NetSpec of a Model.
        model: its sizes.
        solver: fields of the SolverParameter besides train_net.
    """

    about: str
    paper: str
    net: Callable[[Any], NetSpec]
    model: Model
    solver: dict[str, Any]


_MNC_PAPER = "J. Dai, K. He, J. Sun: Instance-aware Semantic Segmentation via Multi-task Network Cascades, CVPR 2016"
_CFM_PAPER = "J. Dai, K. He, J. Sun: Convolutional Feature Masking for Joint Object and Stuff Segmentation, CVPR 2015"
FASTER_RCNN_PAPER = (
    "S. Ren, K. He, R. Girshick, J. Sun: Faster R-CNN: Towards Real-Time Object Detection"
    " with Region Proposal Networks, NIPS 2015"
)

SGD: dict[str, Any] = {
    "base_lr": 0.001,
    "lr_policy": "step",
    "gamma": 0.1,
    "average_loss": 100,
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "snapshot": 0,
}
"""Solver fields that all nets of MNC and py-faster-rcnn share."""

# With SGD the cascade takes several times as many updates to get under way.
ADAM: dict[str, Any] = {
    "type": "Adam",
    "base_lr": 0.001,
    "gamma": 0.3,
    "display": 20,
    "average_loss": 20,
    "momentum": 0.9,
    "momentum2": 0.999,
    "weight_decay": 0.0001,
    "snapshot": 0,
}
"""Solver fields of thin nets, trained from scratch in a few minutes on a CPU."""

_MNC_SOLVER = SGD | {"stepsize": 20000, "display": 100, "iter_size": 8}
_TINY_SOLVER = ADAM | {"lr_policy": "multistep", "stepvalue": [1750, 2200], "iter_size": 1}


def _tiny(name: str) -> Model:
    return Model(
        name,
        trunks.tiny,
        classes=5,
        stride=8,
        anchor_scales=(1.5, 3, 6),
        rpn_channels=64,
        hidden=128,
        mask_hidden=128,
        from_scratch=True,
    )


def _on_resnet(depth: int, resnet: ResNet) -> Definition:
    return Definition(
        f"the five-stage multi-task network cascade on ResNet-{depth}",
        _MNC_PAPER,
        partial(mnc_resnet.net, resnet),
        Model(f"ResNet-{depth}", partial(mnc_resnet.trunk, resnet)),
        _MNC_SOLVER | {"snapshot_prefix": f"resnet{depth}_mnc_5stage"},
    )


DEFINITIONS: dict[str, Definition] = {
    "mnc5": Definition(
        "the five-stage multi-task network cascade on VGG-16, as published",
        _MNC_PAPER,
        mnc.net,
        Model("VGG16", trunks.vgg16),
        _MNC_SOLVER | {"snapshot_prefix": "vgg16_mnc_5stage"},
    ),
    "mnc5_tiny": Definition(
        "the five-stage multi-task network cascade, thin, for images of about 200 pixels",
        _MNC_PAPER,
        mnc.net,
        _tiny("MNC5_tiny"),
        _TINY_SOLVER | {"snapshot_prefix": "mnc5_tiny"},
    ),
    "mnc5_resnet50": _on_resnet(50, RESNET50),
    "mnc5_resnet101": _on_resnet(101, RESNET101),
    "cfm": Definition(
        "convolutional feature masking on VGG-16, as published with MNC",
        _CFM_PAPER,
        cfm.net,
        Model("VGG16", trunks.vgg16),
        _MNC_SOLVER | {"snapshot_prefix": "cfm"},
    ),
    "cfm_tiny": Definition(
        "convolutional feature masking, thin, for images of about 200 pixels",
        _CFM_PAPER,
        cfm.net,
        _tiny("CFM_tiny"),
        _TINY_SOLVER | {"stepvalue": [1400, 1800], "snapshot_prefix": "cfm_tiny"},
    ),
    "faster_rcnn": Definition(
        "Faster R-CNN on VGG-16 with RoI warping, trained end to end, as published with MNC",
        FASTER_RCNN_PAPER,
        faster_rcnn.net,
        Model("VGG_ILSVRC_16_layers", trunks.vgg16),
        _MNC_SOLVER | {"stepsize": 50000, "display": 20, "iter_size": 2, "snapshot_prefix": "vgg16_faster_rcnn"},
    ),
    "faster_rcnn_tiny": Definition(
        "Faster R-CNN with RoI warping, thin, for images of about 200 pixels",
        FASTER_RCNN_PAPER,
        faster_rcnn.net,
        _tiny("Faster_RCNN_tiny"),
        _TINY_SOLVER | {"base_lr": 0.002, "stepvalue": [2400, 3100], "snapshot_prefix": "faster_rcnn_tiny"},
    ),
}
