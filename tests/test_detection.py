"""Detection by py-faster-rcnn's rules against what its test program computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pyfrcnn_cases import RecordedNet, close, load, names, settings

from caffe_bridge import boxes, detection
from caffe_bridge.errors import CaffeError
from caffe_bridge.layers import functional


def net_of(data: dict[str, np.ndarray], suffix: str = "") -> RecordedNet:
    """The net of a recorded case, or of one of its images."""
    blobs = {name: f"in_{name}{suffix}" for name in ("cls_prob", "bbox_pred", "cls_score")}
    blobs["rois"] = f"in_net_rois{suffix}"
    return RecordedNet({f"in_{name}": data[recorded] for name, recorded in blobs.items() if recorded in data})


@pytest.mark.parametrize("case", names("im_detect"))
def test_scores_and_boxes(case):
    data, values = load(case)
    net = net_of(data)
    with settings(values.get("cfg")):
        scores, found = detection.detect(net, data["in_im"], data.get("in_boxes"))
    close(scores, data["out_scores"])
    close(found, data["out_boxes"])
    np.testing.assert_allclose(net.asked["data"], data["out_data"], atol=3e-4)
    for name in ("rois", "im_info"):
        if f"out_{name}" in data:
            close(net.asked[name], data[f"out_{name}"])
    assert ("im_info" in net.asked) == ("out_im_info" in data)


@pytest.mark.parametrize("case", names("rois_blob"))
def test_levels_of_the_pyramid(case):
    data, values = load(case)
    with settings(values.get("cfg")):
        blob, scales = detection.image_pyramid(data["in_im"])
    np.testing.assert_allclose(blob, data["out_im_blob"], atol=3e-4)
    close(scales, data["out_im_scales"])
    close(detection.rois_of(data["in_boxes"], scales), data["out_rois"])
    close(detection.rois_of(data["in_boxes"], np.array(values["scales"])), data["out_rois_given_scales"])


@pytest.mark.parametrize("case", names("test_net"))
def test_what_is_reported(case):
    data, values = load(case)
    keys = {"max_per_image": "max_per_image", "thresh": "threshold"}
    options = {keys[name]: values[name] for name in keys if name in values}
    rows, counts = [], []
    with settings(values.get("cfg")):
        for i in range(values["num_images"]):
            net = net_of(data, str(i))
            proposals = data[f"in_boxes{i}"][data[f"in_gt_classes{i}"] == 0] if f"in_boxes{i}" in data else None
            found = detection.best_detections(*detection.detect(net, data[f"in_im{i}"], proposals), **options)
            counts.append([len(of_class) for of_class in found])
            rows += [[i, c, *row] for c, of_class in enumerate(found, 1) for row in of_class.tolist()]
            if f"out_rois{i}" in data:
                close(net.asked["rois"], data[f"out_rois{i}"])
    assert counts == data["out_count"].tolist()
    close(np.array(rows), data["out_dets"])


@pytest.mark.parametrize("case", names("apply_nms"))
def test_suppression_of_stored_detections(case):
    data, values = load(case)
    rows = []
    for i in range(values["num_images"]):
        stored = [data.get(f"in_dets{c}_{i}", np.zeros((0, 5), np.float32)) for c in range(values["num_classes"])]
        kept = detection.suppress(stored, values["thresh"])
        rows += [[i, c, *row] for c, of_class in enumerate(kept) for row in of_class.tolist()]
        assert [len(of_class) == 0 for of_class in kept] == data["out_is_list"][:, i].astype(bool).tolist()
    close(np.array(rows), data["out_dets"])


@pytest.mark.parametrize("case", names("nms"))
def test_suppression_by_each_kernels_rule(case):
    data, values = load(case)
    rows, scores = torch.from_numpy(data["in_dets"][:, :4].copy()), torch.from_numpy(data["in_dets"][:, 4].copy())
    for inclusive, kernels in ((False, ("gpu", "default", "py")), (True, ("cpu", "force_cpu", "no_gpu"))):
        kept = functional.nms(rows, scores, values["thresh"], inclusive=inclusive).tolist()
        assert all(kept == data[f"out_keep_{kernel}"].tolist() for kernel in kernels)


@pytest.mark.parametrize("case", names("anchors"))
def test_anchors(case):
    data, values = load(case)
    options: dict[str, Any] = {key: values[key] for key in ("base_size", "ratios", "scales") if key in values}
    close(boxes.anchors(**options), data["out_anchors"])


def test_an_image_without_proposals_has_no_detections():
    data, _ = load("im_detect__boxes_duplicates")
    with settings():
        scores, found = detection.detect(net_of(data), data["in_im"], np.zeros((0, 4)))
        assert scores.shape == (0, 5) and found.shape == (0, 20)
        assert [len(rows) for rows in detection.best_detections(scores, found)] == [0] * 4


def test_what_cannot_be_detected_in_is_refused():
    data, _ = load("im_detect__rpn")
    net = net_of(data)
    with settings({"TEST.SCALES": (30, 40)}), pytest.raises(CaffeError, match="works at one scale"):
        detection.detect(net, data["in_im"])
    with settings({"TEST.SCALES": ()}), pytest.raises(CaffeError, match="TEST.SCALES is empty"):
        detection.detect(net, data["in_im"])
    with settings(), pytest.raises(CaffeError, match="proposals are rows"):
        detection.detect(net, data["in_im"], np.zeros((3, 5)))
    with settings(), pytest.raises(CaffeError, match="an image is an array"):
        detection.detect(net, data["in_im"][:, :, 0])
