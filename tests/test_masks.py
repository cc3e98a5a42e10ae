"""Mask arithmetic against OpenCV and what the original computed."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from caffe_bridge import masks
from caffe_bridge.errors import CaffeError

MNC = Path(__file__).parent / "reference" / "mnc"


def test_resize_matches_the_recorded_results() -> None:
    data = dict(np.load(MNC / "cv_resize__float32.npz"))
    for number, (width, height) in enumerate(json.loads(str(data["param_json"]))["sizes_wh"]):
        got = masks.resize(torch.from_numpy(data[f"in_{number}"]), (height, width))
        np.testing.assert_allclose(got, data[f"out_{number}"], atol=1e-5)


@pytest.fixture
def plain_opencv() -> None:
    """OpenCV's own resize; Intel's library, which wheels use where they can, rounds coordinates differently."""
    optimised, intel = cv2.useOptimized(), cv2.ipp.useIPP()
    cv2.setUseOptimized(False)
    cv2.ipp.setUseIPP(False)
    yield
    cv2.setUseOptimized(optimised)
    cv2.ipp.setUseIPP(intel)


def test_resize_rounds_as_opencv(plain_opencv: None) -> None:
    random = np.random.RandomState(5)
    for _ in range(60):
        mask = random.rand(*random.randint(1, 60, 2)).astype(np.float32)
        height, width = (int(length) for length in random.randint(1, 90, 2))
        got = masks.resize(torch.from_numpy(mask), (height, width)).numpy()
        np.testing.assert_allclose(got, cv2.resize(mask, (width, height)), rtol=2e-7, atol=2e-7)


def test_resize_a_stack() -> None:
    stack = torch.rand(2, 3, 7, 5)
    got = masks.resize(stack, (4, 9))
    assert got.shape == (2, 3, 4, 9)
    assert torch.equal(got[1, 2], masks.resize(stack[1, 2], (4, 9)))


def placed() -> tuple[dict[str, np.ndarray], torch.Tensor, torch.Tensor, torch.Tensor]:
    data = dict(np.load(MNC / "transform__all.npz"))
    boxes, gt_boxes = (torch.from_numpy(data[f"in_mo_box{i}"].astype(np.int64)) for i in (1, 2))
    return data, boxes, gt_boxes, gt_boxes[:, [3, 2]] - gt_boxes[:, [1, 0]] + 1


def test_targets() -> None:
    data, boxes, gt_boxes, sizes = placed()
    gt_masks = torch.from_numpy(data["in_mo_mask2"])
    got = masks.targets(boxes, gt_masks, torch.arange(len(boxes)), sizes, gt_boxes)
    np.testing.assert_array_equal(got, data["out_intersect_mask"] > 0)


def test_targets_choose_their_mask_by_index() -> None:
    data, boxes, gt_boxes, sizes = placed()
    gt_masks, index = torch.from_numpy(data["in_mo_mask2"]), torch.tensor([3, 3, 0, 5])
    got = masks.targets(boxes[index], gt_masks, index, sizes[index], gt_boxes[index], size=9)
    for row, number in enumerate(index):
        one = slice(number, number + 1)
        want = masks.targets(boxes[one], gt_masks[one], torch.zeros(1, dtype=torch.int64), sizes[one], gt_boxes[one], 9)
        assert torch.equal(got[row], want[0])


def test_iou() -> None:
    data, boxes, gt_boxes, sizes = placed()
    gt_masks = torch.from_numpy(data["in_mo_mask2"])
    for row in range(len(boxes)):
        height, width = (boxes[row, 2:] - boxes[row, :2] + 1).flip(0).tolist()
        mask = torch.from_numpy(data["in_mo_mask1"][row : row + 1, :height, :width].copy())
        one = slice(row, row + 1)
        got = masks.iou(mask, boxes[one], gt_masks, torch.tensor([row]), sizes[one], gt_boxes[one])
        np.testing.assert_allclose(got, data["out_mask_overlap"][one], atol=1e-6)


@pytest.mark.parametrize("case", ["train", "train_no_background"])
def test_iou_of_resized_masks(case: str) -> None:
    data = dict(np.load(MNC / f"mask_layer__{case}.npz"))
    rows = data["in_gt_masks_info"][:, 0] >= 0
    info = torch.from_numpy(data["in_gt_masks_info"][rows]).round().long()
    predicted = torch.from_numpy(data["in_mask_pred"][rows]).view(-1, 21, 21)
    gt_masks = torch.from_numpy(data["in_gt_masks"])
    got = masks.iou(predicted, info[:, 4:8], gt_masks, info[:, 0], info[:, 1:3], info[:, 8:])
    np.testing.assert_allclose(got, data["aux_iou"][rows], atol=1e-6)


@pytest.mark.parametrize("corner", [[4, 9], [10**6, 10**6]])
def test_iou_refuses_senseless_boxes(corner: list[int]) -> None:
    box, truth = torch.tensor([[5, 5, *corner]]), torch.tensor([[0, 0, 9, 9]])
    with pytest.raises(CaffeError, match="cannot be resized to a box of"):
        masks.iou(torch.ones(1, 21, 21), box, torch.ones(1, 10, 10), torch.tensor([0]), torch.tensor([[10, 10]]), truth)


def test_empty_masks_do_not_overlap() -> None:
    box = torch.tensor([[0, 0, 9, 9]])
    got = masks.iou(
        torch.zeros(1, 21, 21), box, torch.zeros(1, 10, 10), torch.tensor([0]), torch.tensor([[10, 10]]), box
    )
    assert got.tolist() == [0]
