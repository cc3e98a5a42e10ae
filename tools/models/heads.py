"""What is predicted for each RoI, shared by MNC's stages and CFM. `suffix` is "_ext" in MNC's second round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L

from . import blocks
from .model import Model

Specs = Callable[[Model, str], list[dict[str, Any]]]
"""The ParamSpecs of the layer whose parameters are called so."""


def hidden_pair(n: NetSpec, m: Model, features: str, specs: Specs, suffix: str) -> None:
    """fc6 and fc7 with their ReLUs; their parameters carry the suffix without "_ext"."""
    bottom = features
    for name in ("fc6", "fc7"):
        top = f"{name}{suffix}"
        blocks.fc(n, top, bottom, m.hidden, specs(m, top.removesuffix("_ext")), **blocks.pretrained(m))
        blocks.relu(n, top.replace("fc", "relu"), top)
        bottom = top


def mask_estimate(n: NetSpec, m: Model, features: str, specs: Specs, suffix: str = "") -> None:
    """`mask_pred`: one class-agnostic mask of 21 x 21 logits per RoI."""
    hidden, top = f"fc6_maskest{suffix}", f"mask_pred{suffix}"
    fillers = blocks.gaussian(0.001) if m.train else {}
    blocks.fc(n, hidden, features, m.mask_hidden, specs(m, "fc6_maskest"), **(blocks.pretrained(m) or fillers))
    blocks.relu(n, f"relu6_maskest{suffix}", hidden)
    blocks.fc(n, top, hidden, blocks.MASK_SIZE**2, specs(m, "mask_pred"), **fillers)


def mask_loss(n: NetSpec, suffix: str = "") -> None:
    """Binary cross entropy over the pixels of foreground RoIs."""
    bottoms = (f"mask_pred{suffix}", f"mask_targets{suffix}", f"mask_weight{suffix}")
    n[f"loss_mask{suffix}"] = L.SigmoidCrossEntropyLoss(
        *(n[b] for b in bottoms), propagate_down=[True, False, False], loss_weight=2
    )


def join(n: NetSpec, of_mask: str, of_box: str, suffix: str = "") -> None:
    """`join_box_mask`: the features of the masked RoI beside those of the whole one."""
    n[f"join_box_mask{suffix}"] = L.Concat(n[of_mask], n[of_box], axis=1)


def box_class(n: NetSpec, m: Model, specs: Specs, suffix: str = "") -> None:
    """`cls_score`: classes of the boxes."""
    _output(n, m, "cls_score", m.classes, 0.01, specs, suffix)


def mask_class(n: NetSpec, m: Model, specs: Specs, suffix: str = "") -> None:
    """`seg_cls_score`: classes of the masks."""
    _output(n, m, "seg_cls_score", m.classes, 0.01, specs, suffix)


def box_deltas(n: NetSpec, m: Model, specs: Specs, suffix: str = "") -> None:
    """`bbox_pred`: four regression values per class."""
    _output(n, m, "bbox_pred", 4 * m.classes, 0.001, specs, suffix)


def _output(n: NetSpec, m: Model, name: str, num_output: int, std: float, specs: Specs, suffix: str) -> None:
    fillers = blocks.gaussian(std) if m.train else {}
    blocks.fc(n, f"{name}{suffix}", f"join_box_mask{suffix}", num_output, specs(m, name), **fillers)


def box_class_loss(n: NetSpec, labels: str, suffix: str = "") -> None:
    blocks.softmax_loss(n, f"loss_cls{suffix}", f"cls_score{suffix}", labels, f"cls_loss{suffix}")


def mask_class_loss(n: NetSpec, labels: str, suffix: str = "") -> None:
    blocks.softmax_loss(n, f"loss_seg_cls{suffix}", f"seg_cls_score{suffix}", labels, f"seg_cls_loss{suffix}")


def box_delta_loss(n: NetSpec, suffix: str = "") -> None:
    names = ("bbox_pred", "bbox_targets", "bbox_inside_weights", "bbox_outside_weights")
    blocks.box_loss(n, f"loss_bbox{suffix}", [f"{name}{suffix}" for name in names], f"bbox_loss{suffix}")


def accuracies(n: NetSpec, box_labels: str, mask_labels: str, suffix: str = "") -> None:
    n[f"accuracy_seg{suffix}"] = L.Accuracy(n[f"seg_cls_score{suffix}"], n[mask_labels])
    n[f"accuracy_det{suffix}"] = L.Accuracy(n[f"cls_score{suffix}"], n[box_labels])
