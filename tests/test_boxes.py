"""Box arithmetic on arrays and tensors against what the original computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_bridge import bbox_targets, boxes
from caffe_bridge.config import cfg

MNC = Path(__file__).parent / "reference" / "mnc"
Kind = Callable[[np.ndarray], Any]


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    return dict(np.load(MNC / "transform__all.npz"))


@pytest.fixture(scope="module")
def parameters(data: dict[str, np.ndarray]) -> dict[str, Any]:
    return json.loads(str(data["param_json"]))


@pytest.fixture(params=[np.asarray, torch.from_numpy], ids=["array", "tensor"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


@pytest.fixture
def precomputed() -> Any:
    cfg.TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED = True
    yield
    cfg.TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED = False


def assert_close(got: Any, want: np.ndarray) -> None:
    got = np.asarray(got)
    assert got.shape == want.shape
    assert np.abs(got.astype(np.float64) - want).max(initial=0) <= 1e-5 * max(1, np.abs(want).max(initial=0))


def test_anchors(data: dict[str, np.ndarray], kind: Kind) -> None:
    assert_close(boxes.anchors(), data["out_anchors"])
    assert_close(boxes.shifted_anchors(kind(boxes.anchors()), 3, 4, 16), data["out_shifted_anchors"])


def test_anchors_of_other_shapes() -> None:
    assert boxes.anchors(8, (0.25, 4.0), (1,)).tolist() == [[-4, 2, 11, 5], [2, -4, 5, 11]]
    assert boxes.anchors(12, (1, 5), (2,)).tolist() == [[-6, -6, 17, 17], [1, -19, 10, 30]]


def test_overlaps(data: dict[str, np.ndarray], kind: Kind) -> None:
    got = boxes.overlaps(kind(data["in_boxes"]), kind(data["in_gt"]))
    assert_close(got, data["out_overlaps"])
    assert got.dtype in (np.float64, torch.float64)


def test_overlaps_of_touching_and_inverted_boxes(kind: Kind) -> None:
    a = kind(np.array([[0, 0, 9, 9], [10, 0, 19, 9], [9, 9, 0, 0]], np.float32))
    overlap = boxes.overlaps(a, a)
    assert overlap[0].tolist() == [1, 0, 0]
    assert overlap[2].tolist() == [0, 0, 0]


def test_encode_and_decode(data: dict[str, np.ndarray], kind: Kind) -> None:
    rois, gt = kind(data["in_boxes"]), kind(data["in_gt"])
    deltas = boxes.encode(rois[: len(gt)], gt)
    assert_close(deltas, data["out_bbox_transform"])
    assert_close(boxes.decode(rois, kind(data["in_deltas"])), data["out_transform_inv"])
    assert_close(boxes.decode(rois[: len(gt)], deltas), data["in_gt"] + [0, 0, 1, 1])


def test_clip(data: dict[str, np.ndarray], parameters: dict[str, Any], kind: Kind) -> None:
    clipped, rows = boxes.clip(kind(data["out_transform_inv"]), parameters["im_shape"])
    assert_close(clipped, data["out_clipped"])
    assert rows.tolist() == data["out_clip_keep"].tolist()
    clipped, rows = boxes.clip(kind(data["in_boxes"]), parameters["im_shape"])
    assert_close(clipped, data["out_clip4"])
    assert rows.tolist() == data["out_clip4_keep"].tolist()


def test_small_and_scaled(data: dict[str, np.ndarray], parameters: dict[str, Any], kind: Kind) -> None:
    rois = kind(data["in_boxes"])
    assert boxes.filter_small(rois, parameters["min_size"]).tolist() == data["out_filter_small"].tolist()
    assert_close(boxes.scale(rois, parameters["alpha"]), data["out_scaled"])


def test_unmap(data: dict[str, np.ndarray], kind: Kind) -> None:
    rows = kind(data["in_um_inds"].astype(np.int64))
    assert_close(boxes.unmap(kind(data["in_um1"]), 20, rows, fill=-1), data["out_unmap1"])
    assert_close(boxes.unmap(kind(data["in_um2"]), 20, rows), data["out_unmap2"])


def test_no_boxes(kind: Kind) -> None:
    none, some = kind(np.zeros((0, 4), np.float32)), kind(np.ones((3, 4), np.float32))
    assert boxes.overlaps(none, some).shape == (0, 3)
    assert boxes.overlaps(some, none).shape == (3, 0)
    assert boxes.decode(none, kind(np.zeros((0, 84), np.float32))).shape == (0, 84)
    clipped, rows = boxes.clip(none, (5, 5))
    assert clipped.shape == (0, 4) and len(rows) == 0


def test_types_are_kept(kind: Kind) -> None:
    rois = kind(np.array([[1, 2, 11, 22]], np.float32))
    for got in (boxes.encode(rois, rois), boxes.decode(rois, rois), boxes.clamp(rois, (9, 9)), boxes.scale(rois, 2)):
        assert type(got) is type(rois) and got.dtype == rois.dtype


def test_derivatives() -> None:
    rois = torch.tensor([[2.0, 3.0, 30.0, 41.0], [-4.0, 5.0, 20.0, 15.0]], dtype=torch.float64, requires_grad=True)
    other = (rois.detach() + 1.5).requires_grad_()
    deltas = 0.1 * torch.randn(2, 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(boxes.encode, (rois, other))
    assert torch.autograd.gradcheck(
        lambda b, d: boxes.clamp(boxes.decode(b, d), (30, 25)), (rois, deltas.requires_grad_())
    )


def test_normalised_targets(data: dict[str, np.ndarray], kind: Kind, precomputed: None) -> None:
    plain = kind(data["out_targets_plain"])
    assert_close(bbox_targets.normalised(plain), data["out_targets_normalized"])
    cfg.TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED = False
    assert bbox_targets.normalised(plain) is plain


def test_targets_per_class(data: dict[str, np.ndarray], parameters: dict[str, Any], kind: Kind) -> None:
    targets, labels = kind(data["in_tgt"]), kind(data["in_labels"])
    spread, weights = bbox_targets.per_class(targets, labels, parameters["num_classes"])
    assert_close(spread, data["out_reg_targets"])
    assert_close(weights, data["out_reg_inside"])


def test_targets_of_rois(data: dict[str, np.ndarray]) -> None:
    inputs = (data[f"in_ct_{name}"] for name in ("rois", "overlaps", "labels"))
    assert_close(bbox_targets.of_rois(*inputs), data["out_compute_targets"])
    without_truth = bbox_targets.of_rois(data["in_ct_rois"], data["in_ct_overlaps"] * 0.9, data["in_ct_labels"])
    assert not without_truth.any()


@pytest.mark.parametrize("case", ["empirical", "precomputed"])
def test_statistics(case: str, request: pytest.FixtureRequest) -> None:
    if case == "precomputed":
        request.getfixturevalue("precomputed")
    data = dict(np.load(MNC / f"bbox_reg_stats__{case}.npz"))
    parameters = json.loads(str(data["param_json"]))
    images = range(parameters["n"])
    names = ("in_boxes", "in_max_overlaps", "in_max_classes")
    targets = [bbox_targets.of_rois(*(data[f"{name}{i}"] for name in names)) for i in images]
    mean, deviation = bbox_targets.statistics(targets, parameters["num_classes"])
    assert_close(mean.ravel(), data["out_means"])
    assert_close(deviation.ravel(), data["out_stds"])
    bbox_targets.normalise(targets, mean, deviation)
    for i in images:
        assert_close(targets[i], data[f"out_targets{i}"])
