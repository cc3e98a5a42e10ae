"""Faster R-CNN trained end to end (Ren et al., NIPS 2015), in the variant MNC was released with: RoIs are warped."""

from __future__ import annotations

from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L

from . import blocks, rpn
from .model import Model

ROI_SIZE = 7


def net(m: Model) -> NetSpec:
    """The network in the model's phase."""
    n = NetSpec()
    if m.train:
        tops = ("data", "im_info", "gt_boxes")
        blocks.python(n, "input-data", "pylayer.mnc_data_layer.MNCDataLayer", (), tops, num_classes=m.classes)
    else:
        blocks.inputs(n, {"data": (1, 3, 224, 224), "im_info": (1, 3)})
    features = m.trunk(n, m)
    rpn.scores_and_deltas(n, m, features, rpn.FASTER_RCNN)
    if m.train:
        rpn.targets(n, m, ("rpn_cls_score", "gt_boxes", "im_info", "data"))
        rpn.losses(n)
    rpn.probabilities(n, m)
    if m.train:
        # Unlimited, as published, the gradient of the RoIs' corners is several times that of the RPN's own losses.
        rpn.proposals(n, m, ("rpn_rois",), use_clip=int(m.from_scratch))
        _sample(n, m)
    else:
        rpn.proposals(n, m, ("rois",))
    _detect(n, m, features)
    return n


def _sample(n: NetSpec, m: Model) -> None:
    blocks.python(
        n,
        "roi-data",
        "pylayer.proposal_target_layer.ProposalTargetLayer",
        ("rpn_rois", "gt_boxes", "im_info"),
        ("rois", "labels", "bbox_targets", "bbox_inside_weights", "bbox_outside_weights"),
        propagate_down=[True, False, False],
        num_classes=m.classes,
        bp_all=0,
    )


def _detect(n: NetSpec, m: Model, features: str) -> None:
    settings: dict[str, Any] = {"propagate_down": [True, True]} if m.train else {}
    n.pool5 = L.ROIWarping(
        n[features],
        n.rois,
        name="roi_pool5",
        pooled_w=ROI_SIZE,
        pooled_h=ROI_SIZE,
        spatial_scale=1 / m.stride,
        **settings,
    )
    bottom = "pool5"
    for i in (6, 7):
        top = f"fc{i}"
        blocks.fc(n, top, bottom, m.hidden, blocks.trained(m), **blocks.pretrained(m))
        blocks.relu(n, f"relu{i}", top)
        if not m.from_scratch:
            blocks.dropout(n, f"drop{i}", top)
        bottom = top
    blocks.fc(n, "cls_score", "fc7", m.classes, blocks.trained(m), **blocks.gaussian(0.01))
    if m.train:
        n.loss_cls = L.SoftmaxWithLoss(n.cls_score, n.labels, propagate_down=[True, False], loss_weight=1)
    else:
        n.cls_prob = L.Softmax(n.cls_score)
    blocks.fc(n, "bbox_pred", "fc7", 4 * m.classes, blocks.trained(m), **blocks.gaussian(0.001))
    if m.train:
        bottoms = ("bbox_pred", "bbox_targets", "bbox_inside_weights", "bbox_outside_weights")
        blocks.box_loss(n, "loss_bbox", bottoms, "loss_bbox")
