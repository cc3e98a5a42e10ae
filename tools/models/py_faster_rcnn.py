"""Fast and Faster R-CNN as py-faster-rcnn released them: RoIs are pooled, and proposals get no gradient.

Girshick, ICCV 2015; Ren et al., NIPS 2015.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L

from . import blocks, rpn
from .model import Model

TARGETS = ("bbox_targets", "bbox_inside_weights", "bbox_outside_weights")
DATA_LAYER = "roi_data_layer.layer.RoIDataLayer"


@dataclass(frozen=True)
class Detector(Model):
    """A Model of these systems.

    Attributes:
        features: channels of the trunk's last blob.
        roi_size: side of a pooled RoI.
        pooling: names of the layer that pools RoIs and of its blob.
        last_hidden: width of fc7, where it is not that of fc6.
        dropout: settings of the layers after fc6 and fc7; None for no such layers.
        rpn_names: names in the RPN.
    """

    features: int = 512
    roi_size: int = 7
    pooling: tuple[str, str] = ("roi_pool5", "pool5")
    last_hidden: int | None = None
    dropout: dict[str, Any] | None = field(default_factory=lambda: {"dropout_ratio": 0.5})
    rpn_names: rpn.Names = rpn.FASTER_RCNN


def end_to_end(m: Detector) -> NetSpec:
    """Faster R-CNN, trained as a whole."""
    n = NetSpec()
    _images(n, m)
    features = m.trunk(n, m)
    _propose(n, m, features)
    if m.train:
        layer = "rpn.proposal_target_layer.ProposalTargetLayer"
        tops = ("rois", "labels", *TARGETS)
        blocks.python(n, "roi-data", layer, ("rpn_rois", "gt_boxes"), tops, num_classes=m.classes)
    _detect(n, m, features)
    return n


def fast_rcnn(m: Detector) -> NetSpec:
    """Fast R-CNN, on proposals from elsewhere."""
    n = NetSpec()
    _on_proposals(n, m)
    return n


def rpn_stage(m: Detector) -> NetSpec:
    """The RPN alone; in training with fc6 and fc7, which are only kept for the next stage."""
    n = NetSpec()
    _images(n, m)
    _propose(n, m, m.trunk(n, m), alone=True)
    if m.train:
        shape = {"dim": [1, m.features * m.roi_size**2]}
        n.dummy_roi_pool_conv5 = L.DummyData(shape=shape, data_filler={"type": "constant", "value": 0})
        _hidden_pair(n, replace(m, dropout=None), "dummy_roi_pool_conv5", blocks.FROZEN)
        n.silence_fc7 = L.Silence(n.fc7, ntop=0)
    return n


def fast_rcnn_stage(m: Detector) -> NetSpec:
    """Fast R-CNN in training, with the RPN, which is only kept for the next stage."""
    n = NetSpec()
    rpn.outputs(n, m, _on_proposals(n, m), m.rpn_names, blocks.FROZEN)
    for blob in ("rpn_cls_score", "rpn_bbox_pred"):
        n[f"silence_{blob}"] = L.Silence(n[blob], ntop=0)
    return n


def _images(n: NetSpec, m: Detector) -> None:
    if m.train:
        tops = ("data", "im_info", "gt_boxes")
        blocks.python(n, "input-data", DATA_LAYER, (), tops, num_classes=m.classes)
    else:
        blocks.inputs(n, {"data": (1, 3, 224, 224), "im_info": (1, 3)})


def _on_proposals(n: NetSpec, m: Detector) -> str:
    """Fast R-CNN; returns the name of the trunk's last blob."""
    if m.train:
        tops = ("data", "rois", "labels", *TARGETS)
        blocks.python(n, "data", DATA_LAYER, (), tops, num_classes=m.classes)
    else:
        blocks.inputs(n, {"data": (1, 3, 224, 224), "rois": (1, 5)})
    features = m.trunk(n, m)
    _detect(n, m, features)
    return features


def _propose(n: NetSpec, m: Detector, features: str, alone: bool = False) -> None:
    """The RPN; `alone`, its training needs no proposals, and its test shows their scores."""
    rpn.scores_and_deltas(n, m, features, m.rpn_names)
    if m.train:
        rpn.targets(n, m, ("rpn_cls_score", "gt_boxes", "im_info", "data"), package="rpn")
        rpn.losses(n)
        if alone:
            return
    rpn.probabilities(n, m)
    bottoms = ("rpn_cls_prob_reshape", "rpn_bbox_pred", "im_info")
    tops = ("rpn_rois",) if m.train else ("rois", "scores") if alone else ("rois",)
    blocks.python(n, "proposal", "rpn.proposal_layer.ProposalLayer", bottoms, tops, **m.anchor_settings())


def _detect(n: NetSpec, m: Detector, features: str) -> None:
    layer, blob = m.pooling
    sizes = {"pooled_w": m.roi_size, "pooled_h": m.roi_size, "spatial_scale": 1 / m.stride}
    n[blob] = L.ROIPooling(n[features], n.rois, name=layer, **sizes)
    _hidden_pair(n, m, blob, blocks.trained(m))
    blocks.fc(n, "cls_score", "fc7", m.classes, blocks.trained(m), **blocks.gaussian(0.01))
    blocks.fc(n, "bbox_pred", "fc7", 4 * m.classes, blocks.trained(m), **blocks.gaussian(0.001))
    if m.train:
        n.loss_cls = L.SoftmaxWithLoss(n.cls_score, n.labels, propagate_down=[True, False], loss_weight=1)
        blocks.box_loss(n, "loss_bbox", ("bbox_pred", *TARGETS), "loss_bbox")
    else:
        n.cls_prob = L.Softmax(n.cls_score)


def _hidden_pair(n: NetSpec, m: Detector, bottom: str, param: list[dict[str, Any]]) -> None:
    for i, width in ((6, m.hidden), (7, m.last_hidden or m.hidden)):
        top = f"fc{i}"
        blocks.fc(n, top, bottom, width, param, **blocks.pretrained(m))
        blocks.relu(n, f"relu{i}", top)
        if m.dropout is not None:
            n[f"drop{i}"] = L.Dropout(n[top], in_place=True, **m.dropout)
        bottom = top
