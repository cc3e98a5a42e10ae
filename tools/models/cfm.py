"""Convolutional feature masking (Dai, He and Sun, CVPR 2015), as MNC's authors released it.

RoIs and their masks are inputs (MCG segment proposals); the network classifies and refines them.
"""

from __future__ import annotations

from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L

from . import blocks, heads
from .model import Model

INPUT_MASK_SIZE = 14
"""Side of a proposal's mask, the configuration's CFM_INPUT_MASK_SIZE, and of the features it is applied to."""

TOPS = (
    "data",
    "rois",
    "masks",
    "box_labels",
    "mask_labels",
    "bbox_targets",
    "mask_targets",
    "bbox_inside_weights",
    "bbox_outside_weights",
    "mask_weight",
)


def net(m: Model) -> NetSpec:
    """The network in the model's phase."""
    n = NetSpec()
    if m.train:
        blocks.python(n, "input-data", "pylayer.cfm_data_layer.CFMDataLayer", (), TOPS, num_classes=m.classes)
    else:
        mask = (1, 1, INPUT_MASK_SIZE, INPUT_MASK_SIZE)
        blocks.inputs(n, {"data": (1, 3, 224, 224), "rois": (1, 5), "masks": mask})
    features = m.trunk(n, m)
    _roi_pooling(n, m, "roi_pooling_conv5", features, INPUT_MASK_SIZE // 2)
    heads.hidden_pair(n, m, "roi_pooling_conv5", _specs, "")
    _roi_pooling(n, m, "roi_pooling_conv5_mask", features, INPUT_MASK_SIZE)
    n.roi_mask_conv5 = L.MaskPooling(n.roi_pooling_conv5_mask, n.masks, name="mask_pooling", **_features_only(m))
    blocks.halve(n, "roi_mask_conv5", "roi_mask_conv5", top="roi_mask_conv5_pool")
    heads.hidden_pair(n, m, "roi_mask_conv5_pool", _specs, "_mask")
    heads.mask_estimate(n, m, "roi_pooling_conv5_mask", _specs)
    if m.train:
        heads.mask_loss(n)
    else:
        n.mask_prob = L.Sigmoid(n.mask_pred)
    heads.join(n, "fc7_mask", "fc7")
    if m.train:
        _training_outputs(n, m)
    else:
        _test_outputs(n, m)
    return n


def _training_outputs(n: NetSpec, m: Model) -> None:
    heads.box_class(n, m, _specs)
    heads.box_class_loss(n, "box_labels")
    heads.box_deltas(n, m, _specs)
    heads.box_delta_loss(n)
    heads.mask_class(n, m, _specs)
    heads.mask_class_loss(n, "mask_labels")
    heads.accuracies(n, "box_labels", "mask_labels")


def _test_outputs(n: NetSpec, m: Model) -> None:
    heads.box_class(n, m, _specs)
    blocks.softmax(n, "cls_prob", "cls_score")
    heads.mask_class(n, m, _specs)
    blocks.softmax(n, "seg_cls_prob", "seg_cls_score")
    heads.box_deltas(n, m, _specs)


def _specs(m: Model, name: str) -> list[dict[str, Any]]:
    """Training names the parameters as MNC does; the test network shares none, so it has no ParamSpecs."""
    return blocks.shared(m, name) if m.train else []


def _features_only(m: Model) -> dict[str, Any]:
    return {"propagate_down": [True, False]} if m.train else {}


def _roi_pooling(n: NetSpec, m: Model, name: str, features: str, size: int) -> None:
    n[name] = L.ROIPooling(
        n[features], n.rois, pooled_w=size, pooled_h=size, spatial_scale=1 / m.stride, **_features_only(m)
    )
