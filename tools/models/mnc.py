"""The five-stage multi-task network cascade (Dai, He and Sun, CVPR 2016).

Stage 1 proposes boxes, stage 2 estimates a mask for each, stage 3 classifies the masked boxes and regresses them.
Stages 4 and 5 repeat 2 and 3 on the regressed boxes, with the same parameters; their blobs end in "_ext".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L

from . import blocks, heads, rpn
from .model import Model

ROI_SIZE = 14
"""Side of the RoI features that masks are predicted from and applied to; boxes get half of it."""

CLIP = {"use_clip": 1, "clip_base": 512}
"""Gradients to box coordinates are cut to +-1/512."""

ROI_TARGETS = (
    "rois",
    "labels",
    "bbox_targets",
    "bbox_inside_weights",
    "bbox_outside_weights",
    "mask_targets",
    "mask_weight",
    "gt_masks_info",
    "fg_inds",
    "bg_inds",
)
BRIDGE_TARGETS = (
    "rois",
    "labels",
    "mask_targets",
    "mask_weight",
    "gt_masks_info",
    "bbox_targets",
    "bbox_inside_weights",
    "bbox_outside_weights",
)


Pathway = Callable[[NetSpec, Model, str, str, str], str]
"""Adds what RoI features of ROI_SIZE are classified by, and returns its last blob.

Its arguments are the net, the model, the branch ("" for the whole box, "_mask" for the part in the mask), the blob of
the features, and what to append to names.
"""


def hidden_layers(n: NetSpec, m: Model, branch: str, features: str, suffix: str) -> str:
    """The published pathway: fc6 and fc7 on halved features, with weights of their own in each branch."""
    halved = f"roi_interpolate_conv5{branch or '_box'}{suffix}"
    blocks.halve(n, halved, features)
    heads.hidden_pair(n, m, halved, blocks.shared, f"{branch}{suffix}")
    return f"fc7{branch}{suffix}"


def net(m: Model, pathway: Pathway = hidden_layers, test_as_trained: bool = False) -> NetSpec:
    """The cascade in the model's phase.

    The published test network warps the RoIs of its second round at ROI_SIZE itself, although training warps at twice
    that and halves; `test_as_trained` lets testing do as training does.
    """
    n = NetSpec()
    if m.train:
        tops = ("data", "im_info", "gt_boxes", "gt_masks", "mask_info")
        blocks.python(n, "input-data", "pylayer.mnc_data_layer.MNCDataLayer", (), tops, num_classes=m.classes)
    else:
        blocks.inputs(n, {"data": (1, 3, 224, 224), "im_info": (1, 3)})
    features = m.trunk(n, m)
    _propose(n, m, features)
    _warp(n, m, features, halved=True)
    _predict(n, m, pathway)
    _bridge(n, m)
    _warp(n, m, features, halved=m.train or test_as_trained, suffix="_ext")
    _predict(n, m, pathway, suffix="_ext")
    return n


def _propose(n: NetSpec, m: Model, features: str) -> None:
    """Stage 1. The RoIs sampled for the later stages are also the anchors the RPN learns from (MIX_INDEX)."""
    rpn.scores_and_deltas(n, m, features)
    rpn.probabilities(n, m)
    if not m.train:
        rpn.proposals(n, m, ("rois",))
        return
    rpn.proposals(n, m, ("rpn_rois", "rpn_rois_index"), **CLIP)
    blocks.python(
        n,
        "roi-data",
        "pylayer.proposal_target_layer.ProposalTargetLayer",
        ("rpn_rois", "gt_boxes", "im_info", "gt_masks", "mask_info", "rpn_rois_index"),
        ROI_TARGETS,
        propagate_down=[True] + [False] * 5,
        num_classes=m.classes,
        bp_all=1,
    )
    rpn.targets(n, m, ("rpn_cls_score", "gt_boxes", "im_info", "fg_inds", "bg_inds"))
    rpn.losses(n)


def _warp(n: NetSpec, m: Model, features: str, halved: bool, suffix: str = "") -> None:
    """RoI features, `roi_interpolate_conv5`: warped at twice the size and max pooled, or warped at the size itself."""
    top = f"roi_interpolate_conv5{suffix}"
    size = 2 * ROI_SIZE if halved else ROI_SIZE
    settings: dict[str, Any] = {"propagate_down": [True, True]} if halved else {}
    warped = f"{top}_premax" if halved else top
    n[warped] = L.ROIWarping(
        n[features], n[f"rois{suffix}"], pooled_w=size, pooled_h=size, spatial_scale=1 / m.stride, **settings
    )
    if halved:
        blocks.halve(n, top, warped)


def _predict(n: NetSpec, m: Model, pathway: Pathway, suffix: str = "") -> None:
    """Stages 2 and 3, or 4 and 5."""
    features = f"roi_interpolate_conv5{suffix}"
    heads.mask_estimate(n, m, features, blocks.shared, suffix)
    if m.train:
        heads.mask_loss(n, suffix)
    _mask_proposals(n, m, suffix)
    of_box = pathway(n, m, "", features, suffix)
    settings: dict[str, Any] = {"propagate_down": [True, True]} if m.train else {}
    n[f"roi_mask_conv5{suffix}"] = L.MaskPooling(
        n[features], n[f"mask_proposal_resize{suffix}"], name=f"mask_pooling{suffix}", **settings
    )
    of_mask = pathway(n, m, "_mask", f"roi_mask_conv5{suffix}", suffix)
    heads.join(n, of_mask, of_box, suffix)
    _classify(n, m, suffix)


def _mask_proposals(n: NetSpec, m: Model, suffix: str) -> None:
    """The estimated masks as probabilities, `mask_proposal`, and at the size of the RoI features."""
    n[f"mask_output{suffix}"] = L.Sigmoid(n[f"mask_pred{suffix}"])
    name, layer, masks = f"mask_proposal{suffix}", "pylayer.mask_layer.MaskLayer", f"mask_output{suffix}"
    if m.train:
        bottoms = (masks, "gt_masks", f"gt_masks_info{suffix}")
        tops = (name, f"mask_proposal_label{suffix}")
        blocks.python(n, name, layer, bottoms, tops, propagate_down=[True, False, False])
    else:
        blocks.python(n, name, layer, (masks,), (name,))
    n[f"mask_proposal_resize{suffix}"] = L.MaskResize(
        n[name], name=f"mask_resize{suffix}", output_height=ROI_SIZE, output_width=ROI_SIZE
    )


def _classify(n: NetSpec, m: Model, suffix: str) -> None:
    """Classes of boxes and masks, and box regression, with their losses or probabilities."""
    box_labels, mask_labels = f"labels{suffix}", f"mask_proposal_label{suffix}"
    heads.box_class(n, m, blocks.shared, suffix)
    if m.train:
        heads.box_class_loss(n, box_labels, suffix)
    else:
        blocks.softmax(n, f"cls_prob{suffix}", f"cls_score{suffix}")
    heads.mask_class(n, m, blocks.shared, suffix)
    if m.train:
        heads.mask_class_loss(n, mask_labels, suffix)
    else:
        blocks.softmax(n, f"seg_cls_prob{suffix}", f"seg_cls_score{suffix}")
    heads.box_deltas(n, m, blocks.shared, suffix)
    if m.train:
        heads.box_delta_loss(n, suffix)
        heads.accuracies(n, box_labels, mask_labels, suffix)


def _bridge(n: NetSpec, m: Model) -> None:
    """Between stages 3 and 4: the regressed boxes become RoIs, with targets of their own in training."""
    name, layer = "stage_bridge", "pylayer.stage_bridge_layer.StageBridgeLayer"
    bottoms = ("rois", "bbox_pred", "seg_cls_prob")
    if not m.train:
        blocks.python(n, name, layer, (*bottoms, "im_info"), ("rois_ext",))
        return
    blocks.softmax(n, "seg_cls_prob", "seg_cls_score")
    blocks.python(
        n,
        name,
        layer,
        (*bottoms, "gt_boxes", "gt_masks", "im_info", "mask_info"),
        [f"{top}_ext" for top in BRIDGE_TARGETS],
        propagate_down=[True, True] + [False] * 5,
        feat_stride=m.stride,
        **CLIP,
        num_classes=m.classes,
    )
