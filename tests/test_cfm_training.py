"""CFM trained and tested by command: its statistics, and files of proposals that cannot be used."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from small_run import ROOT, read_all

from caffe_bridge import bbox_targets, mask_proposals, mcg, proposal_survey
from caffe_bridge.cli import run
from caffe_bridge.config import cfg, cfg_from_file, use
from caffe_bridge.datasets import get_imdb, shapes
from caffe_bridge.errors import CaffeError
from caffe_bridge.mask_proposals import MaskProposals
from caffe_bridge.tools import prepare_mcg_maskdb, test_net, train_net
from caffe_bridge.training import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = ROOT / "prototxt" / "cfm_tiny"
SETTINGS = """
EXP_DIR: cfm
MNC_MODE: False
CFM_MODE: True
TRAIN: {HAS_RPN: False, SCALES: [56], MAX_SIZE: 80, BATCH_SIZE: 8, ASPECT_GROUPING: True}
TEST: {SCALES: [56], MAX_SIZE: 80}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """data/shapes, and proposals of its images where the commands look for them."""
    shapes.make(str(tmp_path / "data" / "shapes"), 4, 3, (64, 72), objects=(1, 2))
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        imdb = get_imdb(f"shapes_{part}", tmp_path / "data" / "shapes")
        raw = tmp_path / f"raw_{part}"
        for i, name in enumerate(imdb.image_names):
            truth = imdb.annotation(i)
            numbers = 1 + np.add.outer(np.arange(64) // 16 * 5, np.arange(72) // 16)  # blocks, and the instances
            for number, (box, mask) in enumerate(zip(truth.boxes, truth.masks), 101):
                numbers[box[1] : box[3] + 1, box[0] : box[2] + 1][mask] = number
            labels = [random.choice(np.unique(numbers), random.integers(1, 4), replace=False) for _ in range(12)]
            labels += [np.array([101, other]) for other in np.unique(numbers)[:6]]
            mcg.write(str(raw / f"{name}.mat"), numbers, labels)
        places = [
            "--root",
            str(tmp_path / "data" / "shapes"),
            "--input",
            str(raw),
            "--output",
            str(usual(tmp_path, part)),
        ]
        assert prepare_mcg_maskdb.main(["--db", f"shapes_{part}", *places, *(["--test"] if part == "val" else [])]) == 0
    (tmp_path / "cfm.yml").write_text(SETTINGS)
    return tmp_path


def usual(folder: Path, part: str) -> Path:
    return folder / "data" / "cache" / f"shapes_{part}_mcg_maskdb"


def places(folder: Path) -> list[str]:
    return ["--cfg", str(folder / "cfm.yml"), "--set", "ROOT_DIR", str(folder), "DATA_DIR", str(folder / "data")]


def training(folder: Path, iters: int, *flags: str) -> list[str]:
    solver = ["--solver", str(MODEL / "solver.prototxt"), "--imdb", "shapes_train", "--iters", str(iters)]
    return ["--cpu", *solver, *flags, *places(folder)]


def judging(folder: Path, *flags: str, weights: Path | None = None) -> list[str]:
    net = ["--def", str(MODEL / "test.prototxt"), "--net", str(weights or snapshot(folder, 2)), "--imdb", "shapes_val"]
    return ["--cpu", *net, "--task", "cfm", *flags, *places(folder)]


def snapshot(folder: Path, iters: int) -> Path:
    return folder / "output" / "cfm" / "shapes_train" / f"cfm_tiny_iter_{iters}.caffemodel"


def change(path: Path, **changes: Any) -> None:
    arrays = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
    arrays.update(changes)
    scipy.io.savemat(path, {name: value for name, value in arrays.items() if value is not None})


def files(folder: Path, part: str = "train") -> MaskProposals:
    cfg.DATA_DIR = str(folder / "data")
    return MaskProposals(get_imdb(f"shapes_{part}"))


def test_trained_and_tested_by_command(folder, capsys):
    assert run(train_net.main, training(folder, 2)) == 0
    assert "8 roidb entries" in capsys.readouterr().out
    assert run(test_net.main, judging(folder)) == 0
    assert "mAP^r@0.5 = " in capsys.readouterr().out
    # From elsewhere, and in other words.
    moved = usual(folder, "val").rename(folder / "mine")
    assert run(test_net.main, judging(folder, "--proposals", str(moved))) == 0
    assert run(test_net.main, judging(folder)) == 2
    assert "caffe-bridge prepare-mcg-maskdb makes it" in capsys.readouterr().err


def test_a_resumed_run_is_the_undisturbed_one(folder):
    assert run(train_net.main, training(folder, 4)) == 0
    whole = read_all(snapshot(folder, 4))
    assert run(train_net.main, training(folder, 2)) == 0
    assert run(train_net.main, training(folder, 4, "--resume")) == 0
    again = read_all(snapshot(folder, 4))
    assert whole.keys() == again.keys() and all(np.array_equal(whole[name], again[name]) for name in whole)


def test_statistics_are_those_of_all_files(folder):
    found = proposal_survey.survey(files(folder), 5)
    targets = []
    for path in sorted(usual(folder, "train").glob("*.mat")):
        kept = scipy.io.loadmat(path)
        targets.append(
            bbox_targets.of_rois(
                kept["boxes"].astype(np.float64), kept["det_overlap"].ravel(), kept["output_label"].ravel().astype(int)
            )
        )
    rows = np.concatenate(targets)
    mean, deviation = found.statistics()
    assert not found.unusable and not found.outside and not mean[0].any()
    assert len(set(rows[:, 0]) - {0}) > 1
    for label in range(1, 5):
        of_class = rows[rows[:, 0] == label, 1:].astype(np.float64)
        assert label not in rows[:, 0] or len(of_class) > 5
        np.testing.assert_allclose(mean[label], of_class.mean(0) if len(of_class) else 0, atol=1e-6)
        np.testing.assert_allclose(deviation[label], of_class.std(0) if len(of_class) else 0, atol=1e-6)


def test_statistics_are_kept_until_something_changes(folder, monkeypatch):
    first = proposal_survey.survey(files(folder), 5)
    kept = usual(folder, "train") / proposal_survey.KEPT_IN
    looks = []
    look = proposal_survey._look
    monkeypatch.setattr(proposal_survey, "_look", lambda *arguments: looks.append(1) or look(*arguments))
    assert proposal_survey.survey(files(folder), 5) == first and not looks
    cfg.TRAIN.BBOX_THRESH = 0.7
    assert proposal_survey.survey(files(folder), 5).mean != first.mean and len(looks) == 1
    cfg.TRAIN.BBOX_THRESH = 0.5
    path = sorted(usual(folder, "train").glob("*.mat"))[0]
    change(path, boxes=scipy.io.loadmat(path)["boxes"] + 1)
    proposal_survey.survey(files(folder), 5)
    assert len(looks) == 2
    for damage in (
        "",
        "{}",
        '{"key": 1}',
        kept.read_text()[:-9],
        json.dumps({**json.loads(kept.read_text()), "mean": []}),
    ):
        kept.write_text(damage)
        proposal_survey.survey(files(folder), 5)
    assert len(looks) == 7
    kept.unlink()
    kept.mkdir()  # a place that cannot be written
    proposal_survey.survey(files(folder), 5)
    assert len(looks) == 8


def test_box_regressor_in_files_predicts_plain_targets(folder):
    use("mnc")
    cfg_from_file(folder / "cfm.yml")
    cfg.DATA_DIR = str(folder / "data")
    trainer = Trainer(MODEL / "solver.prototxt", folder=folder / "out")
    assert trainer.feed(get_imdb("shapes_train")) == 8
    trainer.step(1)
    trainer.snapshot()
    saved = read_all(Path(trainer.saved))
    weight, bias = (blob.detach().numpy() for blob in trainer.net.params["bbox_pred"])
    mean, deviation = (part.ravel() for part in proposal_survey.survey(files(folder), 5).statistics())
    assert deviation.any()
    np.testing.assert_allclose(saved["bbox_pred/0"], weight * deviation[:, None], rtol=1e-6)
    np.testing.assert_allclose(saved["bbox_pred/1"], bias * deviation + mean, rtol=1e-5, atol=1e-7)
    cfg.TRAIN.BBOX_NORMALIZE_TARGETS = False
    plain = Trainer(MODEL / "solver.prototxt", folder=folder / "plain")
    plain.feed(get_imdb("shapes_train"))
    plain.snapshot()
    assert np.array_equal(read_all(Path(plain.saved))["bbox_pred/0"], plain.net.params["bbox_pred"][0].detach())


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "missing": lambda path: path.unlink(),
    "wrong keys": lambda path: change(path, boxes=None, box=np.zeros((3, 4))),
    "wrong shape": lambda path: change(path, boxes=np.zeros((4, 3))),
    "masks of another number": lambda path: change(path, masks=np.zeros((2, 21, 21), bool)),
    "MATLAB 7.3": lambda path: path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(512)),
    "text": lambda path: path.write_text("proposals"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_bad_files_are_named_and_the_rest_goes_on(folder, damage, capsys):
    first = [sorted(usual(folder, part).glob(f"{part}_*.mat"))[0] for part in ("train", "val")]
    for path in first:
        DAMAGE[damage](path)
    assert run(train_net.main, training(folder, 2)) == 0
    out, err = capsys.readouterr()
    assert "6 roidb entries" in out and re.search(rf"{first[0].name}: .*\n", err)
    assert "1 of 4 images are left out" in err
    assert run(test_net.main, judging(folder)) == 0
    out, err = capsys.readouterr()
    assert "mAP^r@0.5" in out
    assert re.search(rf"{first[1].name}: .*; its image counts as one where nothing is found, 1 so far", err)


def test_proposals_outside_the_image_are_named_and_left_out(folder, capsys):
    train, val = (sorted(usual(folder, part).glob(f"{part}_*.mat"))[0] for part in ("train", "val"))
    for path in (train, val):
        boxes = scipy.io.loadmat(path)["boxes"]
        boxes[-3:, 2] += 500
        change(path, boxes=boxes)
    assert run(train_net.main, training(folder, 2)) == 0
    assert f"3 proposals leave their image and are not used: {train} (3)" in capsys.readouterr().err
    assert run(test_net.main, judging(folder)) == 0
    count = len(scipy.io.loadmat(val)["boxes"])
    assert f"{val}: 3 of {count} proposals leave the image; not looked at" in capsys.readouterr().err


def test_images_without_proposals(folder, capsys):
    """Training has the instances themselves then; a test finds nothing there."""
    train, val = (sorted(usual(folder, part).glob(f"{part}_*.mat"))[0] for part in ("train", "val"))
    truths = len(scipy.io.loadmat(train)["gt_classes"])
    for path in (train, train.with_name(f"{train.stem}_flip.mat")):
        rows = {name: value[:truths] for name, value in scipy.io.loadmat(path).items() if len(value) > truths}
        change(path, **{name: value for name, value in rows.items() if not name.startswith("__")})
    change(val, boxes=np.zeros((0, 4)), masks=np.zeros((0, 21, 21), bool))
    assert run(train_net.main, training(folder, 9)) == 0
    out, err = capsys.readouterr()
    assert "8 roidb entries" in out and ".mat" not in err
    assert run(test_net.main, judging(folder, weights=snapshot(folder, 9))) == 0
    assert ".mat" not in capsys.readouterr().err


def test_results_of_other_proposals_are_made_anew(folder, capsys):
    assert run(train_net.main, training(folder, 2)) == 0
    DAMAGE["truncated"](bad := sorted(usual(folder, "val").glob("*.mat"))[0])
    for expected in (True, False):  # the second test has the results of the first
        capsys.readouterr()
        assert run(test_net.main, judging(folder)) == 0
        assert (bad.name in capsys.readouterr().err) == expected
    change(sorted(usual(folder, "val").glob("*.mat"))[1], masks=np.ones((18, 21, 21), bool), boxes=np.ones((18, 4)))
    assert run(test_net.main, judging(folder)) == 0
    assert bad.name in capsys.readouterr().err


def test_nothing_that_can_be_used(folder, capsys):
    for path in usual(folder, "train").glob("*.mat"):
        path.write_bytes(b"")
    assert run(train_net.main, training(folder, 2)) == 2
    assert "no image has proposals to train on" in capsys.readouterr().err
    with pytest.raises(
        CaffeError, match="no proposals for any of the 4 images of shapes_train, such as train_000000.mat"
    ):
        MaskProposals(files(folder)._dataset, str(folder))


def test_a_data_set_of_other_classes(folder, capsys):
    assert run(train_net.main, training(folder, 2, "--classes", "9")) == 2
    assert "--classes 5" in capsys.readouterr().err


def test_the_usual_folder_is_the_original_s():
    class Named:
        name = "voc_2012_seg_val"

    cfg.DATA_DIR = "data"
    assert mask_proposals.usual_folder(Named()) == "data/cache/voc_2012_val_mcg_maskdb"
