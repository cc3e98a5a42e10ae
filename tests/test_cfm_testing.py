"""CFM in several scales: where each proposal is looked at, and that grouping does not change what is found."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from caffe_bridge import cfm_testing, inference, mcg, recipe
from caffe_bridge.config import cfg
from caffe_bridge.datasets import get_imdb, shapes
from caffe_bridge.errors import CaffeError
from caffe_bridge.mask_proposals import Proposals
from caffe_bridge.net import Net
from caffe_bridge.scaling import as_blob, scale_image
from caffe_bridge.tools import prepare_mcg_maskdb, test_net

ROOT = Path(__file__).parent.parent
MNC = Path(__file__).parent / "reference" / "mnc"


@pytest.fixture(scope="module")
def net() -> Net:
    net = Net(ROOT / "prototxt" / "cfm_tiny" / "test.prototxt")
    recipe.fill(net)
    return net


@pytest.fixture(autouse=True)
def settings() -> None:
    cfg.TEST.SCALES, cfg.TEST.MAX_SIZE = [48, 64, 80], 200


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)


@pytest.fixture
def proposals(monkeypatch: pytest.MonkeyPatch) -> Proposals:
    """Of all sizes, so that each of the scales is nearest for some."""
    monkeypatch.setattr(cfm_testing, "_AREA", 32 * 32)
    rng = np.random.default_rng(1)
    low = rng.integers(0, 20, (24, 2))
    high = low + rng.integers(8, 40, (24, 2))
    return Proposals(np.concatenate([low, high], 1).astype(float), rng.integers(0, 2, (24, 21, 21)).astype(np.float32))


def test_scales_are_chosen_as_recorded():
    data = np.load(MNC / "transform__all.npz")
    names = [name for name in data.files if name.startswith("out_rois_blob")]
    assert names
    for name in names:
        factors = np.array([1.7]) if name.endswith("1") else np.array([0.8, 1.2, 1.9])
        want = data[name]
        rows = want[:, 1:] / factors[want[:, 0].astype(int), None]
        np.testing.assert_array_equal(cfm_testing.levels(rows, factors), want[:, 0])


def test_every_proposal_is_looked_at_in_its_scale(net, image, proposals):
    boxes, masks, scores = cfm_testing.forward_proposals(net, image, proposals)
    sides = proposals.boxes[:, 2:] - proposals.boxes[:, :2] + 1
    kept = np.flatnonzero((sides >= 16).all(1))
    assert 0 < len(kept) < 24
    factors = np.array(cfg.TEST.SCALES) / 60
    level = cfm_testing.levels(proposals.boxes[kept], factors)
    assert set(level) == {0, 1, 2}
    kept = kept[np.argsort(level, kind="stable")]
    np.testing.assert_array_equal(boxes, proposals.boxes[kept])
    for row, number in enumerate(kept):  # alone, in an image of its scale alone
        cfg.TEST.SCALES = [int(np.sort(level)[row] * 16 + 48)]
        one = Proposals(proposals.boxes[number : number + 1], proposals.masks[number : number + 1])
        _, mask, score = cfm_testing.forward_proposals(net, image, one)
        torch.testing.assert_close(masks[row : row + 1], mask, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scores[row : row + 1], score, rtol=1e-4, atol=1e-5)


def test_few_at_a_time_find_the_same(net, image, proposals):
    whole = cfm_testing.forward_proposals(net, image, proposals)
    cfg.TEST.MAX_ROIS_GPU = [3, 1]
    for got, want in zip(cfm_testing.forward_proposals(net, image, proposals), whole, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_scales_in_groups(net, image, proposals):
    cfg.TEST.GROUP_SCALE = 2
    _, _, scores = cfm_testing.forward_proposals(net, image, proposals)
    large = ((proposals.boxes[:, 2:] - proposals.boxes[:, :2] + 1) >= 16).all(1)
    rows, factors = proposals.boxes[large], np.array(cfg.TEST.SCALES) / 60
    level = cfm_testing.levels(rows, factors)
    masks = torch.stack([_shrunk(mask) for mask in proposals.masks[large]])
    want = []
    for group in ([0, 1], [2]):
        pyramid = as_blob([scale_image(image, cfg.TEST.SCALES[number], 200)[0] for number in group])
        here = np.flatnonzero(np.isin(level, group))
        rois = np.column_stack([level[here] - group[0], rows[here] * factors[level[here], None]])
        with torch.no_grad():
            inputs = {"data": torch.from_numpy(pyramid), "rois": torch.from_numpy(rois).float(), "masks": masks[here]}
            want.append(net(**inputs, blobs=["seg_cls_prob"])["seg_cls_prob"])
    torch.testing.assert_close(scores, torch.cat(want), rtol=1e-4, atol=1e-5)


def _shrunk(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(cv2.resize(mask.astype(float), (14, 14)) >= 0.4).float()[None]


def test_first_proposals(net, image, proposals):
    cfg.TEST.USE_TOP_K_MCG = 5
    boxes, _, _ = cfm_testing.forward_proposals(net, image, proposals)
    large = ((proposals.boxes[:, 2:] - proposals.boxes[:, :2] + 1) >= 16).all(1)
    assert sorted(map(tuple, boxes.tolist())) == sorted(map(tuple, proposals.boxes[large][:5].tolist()))


def test_no_proposal(net, image):
    nothing = Proposals(np.zeros((0, 4)), np.zeros((0, 21, 21), np.float32))
    boxes, masks, scores = cfm_testing.forward_proposals(net, image, nothing)
    assert boxes.shape == (0, 4) and masks.shape == (0, 1, 21, 21) and scores.shape == (0, 5)
    assert [len(rows) for rows in inference.suppress(boxes, masks, scores)[0]] == [0] * 4


def test_settings_and_nets_that_do_not_fit(net, image, proposals):
    cfg.TEST.MAX_ROIS_GPU = [0]
    with pytest.raises(CaffeError, match="MAX_ROIS_GPU 1 or more"):
        cfm_testing.forward_proposals(net, image, proposals)
    with pytest.raises(CaffeError, match="has no 'masks'"):
        cfm_testing.check_net(Net(ROOT / "prototxt" / "mnc5_tiny" / "test.prototxt"))


def test_by_command(net, tmp_path, capsys):
    shapes.make(str(tmp_path / "shapes"), 1, 2, (64, 72), objects=(1, 2))
    imdb = get_imdb("shapes_val", tmp_path / "shapes")
    net.save(tmp_path / "net.caffemodel.h5")
    rng = np.random.default_rng(0)
    raw, prepared = tmp_path / "raw", tmp_path / "prepared"
    for i, name in enumerate(imdb.image_names):
        truth, numbers = imdb.annotation(i), np.ones((64, 72), int)
        for number, (box, mask) in enumerate(zip(truth.boxes, truth.masks), 2):
            numbers[box[1] : box[3] + 1, box[0] : box[2] + 1][mask] = number
        labels = [rng.integers(1, len(truth) + 2, 1) for _ in range(6)]
        mcg.write(str(raw / f"{name}.mat"), numbers, labels)
    of_set = ["--db", "shapes_val", "--root", str(tmp_path / "shapes"), "--test"]
    assert prepare_mcg_maskdb.main([*of_set, "--input", str(raw), "--output", str(prepared)]) == 0
    command = [
        *["--def", str(ROOT / "prototxt" / "cfm_tiny" / "test.prototxt"), "--net", str(tmp_path / "net.caffemodel.h5")],
        *["--imdb", "shapes_val", "--data", str(tmp_path / "shapes"), "--task", "cfm", "--cpu"],
    ]
    more = ["--set", "ROOT_DIR", str(tmp_path), "EXP_DIR", "cfm", "TEST.SCALES", "[64, 96]", "TEST.GROUP_SCALE", "2"]
    assert test_net.main([*command, "--proposals", str(prepared), *more]) == 0
    assert "mAP^r@0.5 = " in capsys.readouterr().out
    assert list((tmp_path / "output" / "cfm").rglob("segm.json"))
    with pytest.raises(CaffeError, match="prepare-mcg-maskdb makes it"):
        test_net.main([*command, "--proposals", str(raw / "absent"), *more])
