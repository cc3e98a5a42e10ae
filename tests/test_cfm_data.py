"""CFM's data layer against what the original computed, and what it does about bad files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
import torch

from caffe_bridge import mask_proposals, randomness, schema
from caffe_bridge.config import cfg
from caffe_bridge.errors import CaffeError, LayerError
from caffe_bridge.layers import cfm_data
from caffe_bridge.layers.cfm_data import CFMDataLayer

MNC = Path(__file__).parent / "reference" / "mnc"
TOPS = [
    *["data", "rois", "masks", "box_label", "mask_label", "bbox_targets", "mask_targets"],
    *["bbox_inside_weights", "bbox_outside_weights", "mask_weight"],
]
ARRAYS = [
    *["boxes", "masks", "mask_targets", "gt_classes", "output_label", "gt_assignment", "det_overlap", "seg_overlap"],
]


class Files:
    """Recorded images and proposals as files, with the methods of MNC's data set."""

    def __init__(self, folder: Path, data: dict[str, np.ndarray], images: int):
        self.folder, self.num_images = folder, images
        for i in range(images):
            cv2.imwrite(self.image_path_at(i), data[f"in_im{i}"])
            for flip in (0, 1):
                arrays = {name: data[f"in_{name}{i}_{flip}"] for name in ARRAYS}
                scipy.io.savemat(self.roidb_path_at(i + flip * images), {**arrays, "Flip": bool(flip)})

    def image_path_at(self, image: int) -> str:
        return str(self.folder / f"{image}.png")

    def roidb_path_at(self, entry: int) -> str:
        mirrored = "_flip" if entry >= self.num_images else ""
        return str(self.folder / f"{entry % self.num_images}{mirrored}.mat")


def make(options: str = "") -> CFMDataLayer:
    param = schema.LayerParameter()
    param.top.extend(TOPS)
    param.python_param.param_str = f"{{'num_classes': 21{options}}}"
    return CFMDataLayer(param, [], "TRAIN")


def recorded(case: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    data = dict(np.load(MNC / f"cfm_data__{case}.npz"))
    values = json.loads(str(data.pop("param_json")))
    for key, value in values["cfg"].items():
        section, _, name = key.rpartition(".")
        (cfg[section] if section else cfg)[name] = value
    return data, values


def filled(folder: Path, options: str = "", case: str = "sampled") -> tuple[CFMDataLayer, Files, dict[str, np.ndarray]]:
    data, values = recorded(case)
    files = Files(folder, data, values["num_images"])
    layer = make(options)
    np.random.seed(values["seed"])
    layer.set_image_info(files, data["in_mean"], data["in_std"])
    return layer, files, data


def change(path: str, **changes: Any) -> None:
    arrays = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
    arrays.update(changes)
    scipy.io.savemat(path, {name: value for name, value in arrays.items() if value is not None})


@pytest.mark.parametrize("case", ["sampled", "index0_background"])
def test_recorded_draws(tmp_path, case):
    layer, _, data = filled(tmp_path, case=case)
    assert layer.stream_state()["order"] == data["out_perm"].tolist()
    for step in range(sum(name.startswith("out_rois_it") for name in data)):
        for name, top in zip(TOPS, layer()):
            want = data[f"out_{name}_it{step}"]
            assert tuple(top.shape) == want.shape and top.dtype == torch.float32
            tolerance = 3e-4 if name == "data" else 1e-5 * max(1, np.abs(want).max())
            np.testing.assert_allclose(top, want, rtol=0, atol=tolerance, err_msg=f"{name}, draw {step}")


def test_sampling_takes_each_interval_s_share():
    overlap = np.linspace(0, 1, 201)
    rows, foreground = cfm_data.draw_rois(overlap, 64, np.random)
    assert len(set(rows.tolist())) == len(rows) <= 64
    assert (np.diff(rows[:foreground]) > 0).all() and (np.diff(rows[foreground:]) > 0).all()
    at_least_half = overlap[rows] >= 0.5
    assert at_least_half[1 if rows[0] == 0 else 0 : foreground].all() and not at_least_half[foreground:].any()
    assert 19 <= at_least_half.sum() <= 20  # 0.3 of 64, and perhaps the row at 0.5 from the second interval
    all_kept, foreground = cfm_data.draw_rois(np.array([0.2, 0.9, 0.05]), 64, np.random)
    assert all_kept.tolist() == [0, 1, 2] and foreground == 2  # row 0 counts as foreground, as published
    assert cfm_data.draw_rois(np.array([0.2, 0.3]), 64, np.random)[1] == 0
    assert not len(cfm_data.draw_rois(np.array([np.nan, -1.0]), 64, np.random)[0])
    cfg.TRAIN.FRACTION_SAMPLE = [1.0]
    with pytest.raises(LayerError, match="different lengths"):
        cfm_data.draw_rois(overlap, 64, np.random)


def test_several_images_in_a_batch_share_it(tmp_path):
    layer, files, _ = filled(tmp_path)
    cfg.TRAIN.IMS_PER_BATCH = 2
    data, rois, *rest = layer()
    assert len(data) == 2 and sorted(set(rois[:, 0].tolist())) == [0, 1] and len(rois) <= 64 + 2
    assert all(len(top) == len(rois) for top in rest)
    assert [shape[0] for shape in layer.top_shapes([])[:2]] == [2, 1]


@pytest.mark.parametrize("options", ["", ", 'prefetch': 2"])
def test_a_restored_stream_goes_on_with_the_same_batches(tmp_path, options):
    first, files, data = filled(tmp_path, options)
    for _ in range(3):
        first()
    state, numpy_state = json.loads(json.dumps(first.stream_state())), np.random.get_state()
    expected = [first() for _ in range(6)]
    second = make(options)
    second.set_image_info(files, data["in_mean"], data["in_std"])
    second.set_stream_state(state)
    np.random.set_state(numpy_state)
    for tops in expected:
        assert all(torch.equal(*pair) for pair in zip(second(), tops, strict=True))


def test_prefetching_leaves_numpys_generator_alone(tmp_path):
    randomness.seed(1)
    layer, _, _ = filled(tmp_path, ", 'prefetch': 2")
    state = np.random.get_state()[1].tolist()
    assert not torch.equal(layer()[1], layer()[1])
    assert np.random.get_state()[1].tolist() == state


BROKEN = [
    ({"boxes": None}, "lacks boxes"),
    ({"boxes": np.zeros((72, 5))}, "boxes are \\(n, 4\\)"),
    ({"boxes": np.full((72, 4), np.nan)}, "boxes has values that are no numbers"),
    ({"boxes": "text"}, "boxes is no array of numbers"),
    ({"masks": np.zeros((3, 21, 21))}, "masks \\(n, M, M\\), not .* and \\(3, 21, 21\\)"),
    ({"mask_targets": np.zeros((72, 14, 14))}, "masks \\(72, 21, 21\\) and mask_targets \\(72, 14, 14\\)"),
    ({"det_overlap": np.zeros((5, 1))}, "72 boxes and 5 of det_overlap"),
    ({"det_overlap": np.full((72, 1), -1.0)}, "no proposal that the intervals"),
    ({"gt_classes": np.zeros((0, 1))}, "has 0 instances among 72 proposals"),
    ({"gt_classes": np.full((2, 1), 21)}, "gt_classes goes from 21 to 21, not below 21"),
    ({"gt_assignment": np.full((72, 1), 2)}, "gt_assignment goes from 2 to 2, not below 2"),
    ({"output_label": np.full((72, 1), -1)}, "output_label goes from -1"),
]


@pytest.mark.parametrize(("changes", "reason"), BROKEN)
def test_files_that_contradict_themselves_are_named_and_passed_over(tmp_path, changes, reason):
    layer, files, _ = filled(tmp_path)
    change(files.roidb_path_at(1), **changes)
    assert all(layer()[0].shape[1] == 3 for _ in range(10))
    assert [*layer.unreadable] == [files.roidb_path_at(1)]
    assert re.search(f"1.mat: .*{reason}", layer.unreadable[files.roidb_path_at(1)])


@pytest.mark.parametrize("content", [None, b"", b"MATLAB 5.0 MAT-file, cut off", b"x" * 4000])
def test_files_that_are_no_matlab_files(tmp_path, content):
    layer, files, _ = filled(tmp_path)
    path = Path(files.roidb_path_at(0))
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    for _ in range(8):
        layer()
    assert "0.mat" in layer.unreadable[str(path)]
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CaffeError, match="0.mat"):
        mask_proposals.read_training(str(path), 21)
    for entry in range(4):
        Path(files.roidb_path_at(entry)).unlink(missing_ok=True)
    with pytest.raises(LayerError, match="no image can be read any more.*No such file"):
        layer()


def test_masks_of_another_size_are_named(tmp_path):
    layer, _, _ = filled(tmp_path)
    cfg.MASK_SIZE = 14
    with pytest.raises(LayerError, match="no image can be read.*masks of \\(21, 21\\), MASK_SIZE is 14"):
        layer()


def test_proposals_outside_the_image_are_named_and_never_drawn(tmp_path, caplog):
    layer, files, data = filled(tmp_path)
    boxes = data["in_boxes0_0"].copy()
    boxes[10:, 2] = 500
    change(files.roidb_path_at(0), boxes=boxes)
    for _ in range(8):
        assert float(layer()[1].max()) < 100
    assert layer.outside == {files.roidb_path_at(0): 62}
    assert caplog.text.count("62 of 72 proposals leave the image") == 1


def test_what_is_handed_over_is_checked(tmp_path):
    layer, files, data = filled(tmp_path)
    with pytest.raises(LayerError, match="set_image_info"):
        make()()
    with pytest.raises(LayerError, match="mean and deviation are \\(21, 4\\)"):
        layer.set_image_info(files, np.zeros((20, 4)), np.ones((20, 4)))
    files.num_images = 0
    with pytest.raises(LayerError, match="no image"):
        layer.set_image_info(files, data["in_mean"], data["in_std"])


def test_a_class_without_deviation_is_not_divided(tmp_path):
    layer, files, data = filled(tmp_path)
    layer.set_image_info(files, data["in_mean"], np.zeros((21, 4)))
    assert bool(layer()[5].isfinite().all())


def test_proposals_to_test_on(tmp_path):
    path = str(tmp_path / "test.mat")
    scipy.io.savemat(path, {"boxes": np.array([[0, 1, 2, 3]]), "masks": np.ones((1, 21, 21), bool)})
    found = mask_proposals.read(path)
    assert found.boxes.tolist() == [[0, 1, 2, 3]] and found.masks.sum() == 441
    with pytest.raises(CaffeError, match="lacks mask_targets"):
        mask_proposals.read_training(path, 21)
