"""Average precision against what the original measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_bridge import evaluation
from caffe_bridge.errors import CaffeError

MNC = Path(__file__).parent / "reference" / "mnc"


def load(case: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    data = dict(np.load(MNC / f"{case}.npz"))
    return data, json.loads(str(data["param_json"]))


def test_voc_ap() -> None:
    data, parameters = load("voc_ap__random")
    for i in range(parameters["n"]):
        recall, precision = data[f"in_rec{i}"], data[f"in_prec{i}"]
        assert evaluation.voc_ap(recall, precision, True) == pytest.approx(float(data[f"out_ap{i}_07"]))
        assert evaluation.voc_ap(recall, precision, False) == pytest.approx(float(data[f"out_ap{i}_area"]))


def test_voc_ap_without_detections() -> None:
    assert evaluation.voc_ap(np.zeros(0), np.zeros(0), True) == 0
    assert evaluation.voc_ap(np.zeros(0), np.zeros(0), False) == 0


@pytest.mark.parametrize("metric", ["07", "area"])
def test_box_ap(metric: str) -> None:
    data, parameters = load("box_ap__one_class")
    images = range(parameters["num_images"])
    detections, truth = ([data[f"in_{name}{i}"] for i in images] for name in ("det", "gt"))
    for threshold in parameters["thresholds"]:
        got = evaluation.box_ap(
            detections, [gt[:, :4] for gt in truth], [gt[:, 4] > 0 for gt in truth], threshold, metric == "07"
        )
        assert got == pytest.approx(float(data[f"out_ap_{threshold * 100:.0f}_{metric}"]))


def test_mask_ap() -> None:
    data, parameters = load("mask_ap__one_class")
    images = range(parameters["num_images"])
    detections, masks, boxes, padded = (
        [data[f"in_{name}{i}"] for i in images] for name in ("det", "seg", "gt_box", "gt_mask")
    )
    tight = [
        [mask[: int(y2 - y1 + 1), : int(x2 - x1 + 1)] for (x1, y1, x2, y2), mask in zip(*image)]
        for image in zip(boxes, padded)
    ]
    for threshold in parameters["thresholds"]:
        got = evaluation.mask_ap(detections, masks, boxes, tight, threshold)
        assert got == pytest.approx(float(data[f"out_ap_{threshold * 100:.0f}"]))


BOX = [0.0, 0.0, 9.0, 9.0]


def test_a_box_at_the_threshold_is_false_and_a_mask_true() -> None:
    detection = [np.array([[*BOX[:3], 19.0, 1.0]])]
    truth = [np.array([BOX])]
    assert evaluation.box_ap(detection, truth, [[False]], 0.5) == 0
    assert evaluation.box_ap(detection, truth, [[False]], 0.49) == 1
    assert evaluation.mask_ap(detection, [np.ones((1, 21, 21))], truth, [[np.ones((10, 10))]], 0.5) == pytest.approx(1)


def test_a_second_detection_of_an_object_is_false() -> None:
    twice = [np.array([[*BOX, 0.9], [*BOX, 0.8]])]
    assert evaluation.box_ap(twice, [np.array([BOX, [50, 50, 59, 59]])], [[False, False]]) == pytest.approx(0.5)


def test_a_difficult_object_is_ignored() -> None:
    found = [np.array([[*BOX, 0.9], [50, 50, 59, 59, 0.8]])]
    truth = [np.array([BOX, [50, 50, 59, 59]])]
    assert evaluation.box_ap(found, truth, [[True, False]]) == 1
    assert evaluation.box_ap(found, truth, [[True, True]]) == 0


def test_images_without_detections_or_objects() -> None:
    found = [[], np.array([[*BOX, 0.9]]), np.array([[*BOX, 0.8]])]
    truth = [np.array([BOX]), np.zeros((0, 4)), np.array([BOX])]
    assert evaluation.box_ap(found, truth, [[False], [], [False]]) == pytest.approx(0.25)
    masks = [np.zeros((0, 21, 21)), np.ones((1, 21, 21)), np.ones((1, 21, 21))]
    assert evaluation.mask_ap(found, masks, truth, [[np.ones((10, 10))], [], [np.ones((10, 10))]]) > 0


def test_lists_that_do_not_fit() -> None:
    with pytest.raises(CaffeError, match="detections 1, boxes 0"):
        evaluation.box_ap([np.zeros((0, 5))], [], [])
    with pytest.raises(CaffeError, match="image 0 has shape"):
        evaluation.box_ap([np.zeros((2, 4))], [np.zeros((0, 4))], [[]])
    with pytest.raises(CaffeError, match="1 detections with 2 masks"):
        evaluation.mask_ap([np.array([[*BOX, 1]])], [np.ones((2, 21, 21))], [np.array([BOX])], [[np.ones((10, 10))]])
