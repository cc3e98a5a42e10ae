"""Training by command: what it leaves, going on, classes, divergence."""

from __future__ import annotations

import json
import os
import random
import re
import time

import cv2
import numpy as np
import pytest
import torch
from forked import fork
from small_run import PROTOTXT, SmallRun, finish, read_all

from caffe_bridge import compiled_net, config, definition, mixed_precision
from caffe_bridge.class_count import class_count, with_classes
from caffe_bridge.cli import run
from caffe_bridge.config import cfg
from caffe_bridge.datasets import get_imdb
from caffe_bridge.errors import CaffeError, SolverError, WeightsError
from caffe_bridge.net import Net
from caffe_bridge.tools import train_net
from caffe_bridge.training import Trainer, latest_state
from caffe_bridge.training_record import TrainingRecord

pytestmark = pytest.mark.usefixtures("one_thread")

KILLS = int(os.environ.get("KILLS", 2))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return SmallRun(tmp_path_factory.mktemp("small"))


@pytest.fixture
def make(small):
    """A trainer that is fed; its files go to output/NAME."""

    def trainer(name="direct", weights=None, more="", data=True, **options):
        config.use("mnc")
        config.cfg_from_file(small.folder / "small.yml")
        cfg.TRAIN.SNAPSHOT_ITERS = 0
        np.random.seed(3)
        made = Trainer(small.solver(more=more + " random_seed: 3"), weights, folder=small.output(name), **options)
        if data:
            made.feed(get_imdb("shapes_train", small.folder / "data" / "shapes"))
        return made

    return trainer


@pytest.fixture(scope="module")
def finished(small):
    """A run of six iterations with snapshots after two, four and six; made by command."""
    assert run(train_net.main, small.training("whole", 6, settings=("TRAIN.SNAPSHOT_ITERS", "2"))) == 0
    return small.output("whole")


def same(first, second):
    mine, theirs = read_all(first), read_all(second)
    assert mine.keys() == theirs.keys()
    return all(np.array_equal(mine[name], theirs[name]) for name in mine)


def test_a_run_leaves_snapshots_values_and_a_curve(finished):
    assert {path.name for path in finished.iterdir()} == {
        *(f"small_iter_{i}.{kind}.h5" for i in (2, 4, 6) for kind in ("caffemodel", "solverstate")),
        "training.jsonl",
        "training.png",
    }
    records = [json.loads(line) for line in (finished / "training.jsonl").read_text().splitlines()]
    assert [record["iter"] for record in records] == [0, 1, 2, 3, 4, 5]
    assert [record["lr"] for record in records] == pytest.approx([0.005] * 3 + [0.0025] * 3)
    assert {"loss", "loss_mask_ext", "accuracy_seg", "rpn_cls_loss"} <= records[0].keys()
    assert cv2.imread(str(finished / "training.png")).std() > 0


def test_the_command_says_what_the_original_says(small, capfd):
    assert run(train_net.main, small.training("spoken", 2)) == 0
    out, err = capfd.readouterr()
    assert re.search(r"^16 roidb entries$", out, re.M)
    assert f"Output will be saved to `{small.output('spoken')}`" in out
    assert out.splitlines()[-2:] == [f"Wrote snapshot to: {small.snapshot('spoken', 2)}", "done solving"]
    assert re.search(r"^I\d{4} [\d:.]+ +\d+ solver_loop.py:\d+\] Iteration 1 \(.* iter/s, .*\), loss = ", err, re.M)
    assert re.search(r"Train net output #\d+: loss_mask = [\d.]+ \(\* 2 = [\d.]+ loss\)", err)


def test_resumed_run_is_the_undisturbed_one(small, finished):
    flags = ("--resume", str(finished / "small_iter_2.solverstate.h5"))
    assert run(train_net.main, small.training("resumed", 6, *flags)) == 0
    assert same(small.snapshot("resumed", 6), finished / "small_iter_6.caffemodel.h5")


def test_resume_without_a_snapshot_starts(small, finished, capsys):
    settings = ("TRAIN.SNAPSHOT_ITERS", "2")
    assert run(train_net.main, small.training("fresh", 2, "--resume", settings=settings)) == 0
    assert "starting from the beginning" in capsys.readouterr().out
    assert same(small.snapshot("fresh", 2), finished / "small_iter_2.caffemodel.h5")
    assert run(train_net.main, small.training("fresh", 4, "--resume", settings=settings)) == 0
    assert "Going on from" in capsys.readouterr().out
    assert same(small.snapshot("fresh", 4), finished / "small_iter_4.caffemodel.h5")


def test_killed_at_any_moment_a_run_ends_as_if_it_had_not_been(small, finished):
    """KILLS says how often; the acceptance run does it twenty times."""
    iterations = 3 * KILLS
    every = ("TRAIN.SNAPSHOT_ITERS", "2")
    if iterations != 6:
        assert run(train_net.main, small.training("whole", iterations, settings=every)) == 0
    arguments = small.training("killed", iterations, "--resume", settings=every)
    moments = random.Random(time.time_ns())
    for _ in range(KILLS):
        process = fork("train_net", arguments)
        for line in process.stdout:
            if "Solving" in line:
                break
        time.sleep(moments.uniform(0, 1.5))
        process.kill()
        process.communicate()
    finish(fork("train_net", arguments))
    assert same(small.snapshot("killed", iterations), small.snapshot("whole", iterations))
    records = [json.loads(line) for line in (small.output("killed") / "training.jsonl").read_text().splitlines()]
    assert [record["iter"] for record in records] == list(range(iterations))


def test_latest_state_is_the_one_written_last(tmp_path):
    assert latest_state(tmp_path / "run") is None
    assert latest_state(tmp_path / "nowhere" / "run") is None
    for name in ("run_iter_40.solverstate.h5", "run_iter_9.solverstate", "runner_iter_99.solverstate", "run_iter_.x"):
        (tmp_path / name).touch()
    later = tmp_path / "run_iter_9.solverstate"
    later.write_bytes(b"x")
    stamp = (tmp_path / "run_iter_40.solverstate.h5").stat().st_mtime_ns
    os.utime(later, ns=(stamp + 10**9, stamp + 10**9))
    assert latest_state(tmp_path / "run") == str(later)


def test_box_regressor_in_files_predicts_plain_targets(make):
    """MNC.md 19: rows times the deviation; the bias times it, plus the mean."""
    trainer = make()
    trainer.step(1)
    weight, bias = (blob.detach().clone() for blob in trainer.net.params["bbox_pred"])
    trainer.snapshot()
    saved = read_all(trainer.saved)
    deviation = np.tile(np.array(cfg.TRAIN.BBOX_NORMALIZE_STDS, np.float32), 5)
    mean = np.tile(np.array(cfg.TRAIN.BBOX_NORMALIZE_MEANS, np.float32), 5)
    np.testing.assert_allclose(saved["bbox_pred/0"], weight.numpy() * deviation[:, None], rtol=1e-6)
    np.testing.assert_allclose(saved["bbox_pred/1"], bias.numpy() * deviation + mean, rtol=1e-6)
    assert torch.equal(weight, trainer.net.params["bbox_pred"][0])
    assert torch.equal(bias, trainer.net.params["bbox_pred"][1])


def test_state_of_another_program_is_normalised_again(make):
    trainer = make("other")
    trainer.step(1)
    expected = [blob.detach().clone() for blob in trainer.net.params["bbox_pred"]]
    trainer._state = super(Trainer, trainer)._state  # what Caffe or an older program would have written
    state = trainer.snapshot()
    again = make("other")
    again.restore(state)
    for blob, values in zip(again.net.params["bbox_pred"], expected, strict=True):
        torch.testing.assert_close(blob.detach(), values)


def test_without_normalised_targets_weights_are_saved_as_they_are(make, small):
    trainer = make(data=False)
    cfg.TRAIN.BBOX_NORMALIZE_TARGETS = False
    trainer.feed(get_imdb("shapes_train", small.folder / "data" / "shapes"))
    trainer.snapshot()
    assert np.array_equal(read_all(trainer.saved)["bbox_pred/0"], trainer.net.params["bbox_pred"][0].detach())


def test_targets_of_proposals_cannot_be_measured_beforehand(make, small):
    trainer = make(data=False)
    cfg.TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED = False
    with pytest.raises(CaffeError, match="PRECOMPUTED True"):
        trainer.feed(get_imdb("shapes_train", small.folder / "data" / "shapes"))


# -- number of classes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnc5", "mnc5_tiny", "cfm", "faster_rcnn", "faster_rcnn_tiny"])
@pytest.mark.parametrize("phase", ["train", "test"])
def test_one_setting_changes_all_layers_that_depend_on_the_classes(name, phase):
    """As the generator of the definitions would have written them."""
    from dataclasses import replace

    from caffe_bridge import text_format
    from caffe_bridge.tools.models.catalogue import DEFINITIONS
    from caffe_bridge.tools.models.render import files

    made = DEFINITIONS[name]
    made = replace(made, model=replace(made.model, classes=7))
    expected = definition.read_net(files(made)[f"{phase}.prototxt"], phase.upper()).param
    changed = with_classes(definition.read_net(PROTOTXT.parent / name / f"{phase}.prototxt", phase.upper()), 7)
    assert class_count(changed) == 7
    assert text_format.format(changed.param) == text_format.format(expected)


def test_class_count_refuses(make):
    read = definition.read_net(PROTOTXT / "test.prototxt", "TEST")
    with pytest.raises(CaffeError, match="1 classes: a net needs at least 2"):
        with_classes(read, 1)
    with pytest.raises(CaffeError, match="no InnerProduct layer that a Softmax reads"):
        class_count(definition.read_net('layer { name: "p" type: "Softmax" bottom: "x" top: "p" }', "TEST"))
    with pytest.raises(CaffeError, match="--classes 5"):
        make(classes=3)


def test_weights_of_other_shapes_are_skipped_when_asked(make, finished):
    weights = finished / "small_iter_2.caffemodel.h5"
    with pytest.raises(WeightsError, match=r"layer 'bbox_pred': blob 0 has shape \(20, 256\) in the file, \(36, 256\)"):
        make(weights=str(weights), data=False, classes=9)
    trainer = make(weights=str(weights), data=False, classes=9, ignore_shapes=True)
    loaded = read_all(weights)
    assert np.array_equal(trainer.net.params["conv1_1"][0].detach(), loaded["conv1_1/0"])
    assert trainer.net.params["cls_score"][0].shape[0] == 9
    assert trainer.net.params["bbox_pred_ext"][0].shape[0] == 36
    assert trainer.net.params["cls_score"][0].std() > 0


# -- divergence ------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_is_traced_to_its_layer(make):
    trainer = make("diverged")
    trainer.step(1)
    state = trainer.snapshot()
    before = {name: [blob.clone() for blob in blobs] for name, blobs in trainer.net.params.items()}
    with torch.no_grad():
        trainer.net.params["mask_pred"][1][5] = float("nan")
    with pytest.raises(SolverError) as caught:
        trainer.step(1)
    text = str(caught.value)
    assert text.startswith("iteration 1: ")
    assert re.search(r"layer 'mask_pred' \(InnerProduct, .*train.prototxt:\d+\)", text) and "its parameters" in text
    assert f"the last snapshot is {trainer.saved}" in text
    again = make("diverged")
    again.restore(state)
    assert all(torch.equal(a, b) for name in before for a, b in zip(before[name], again.net.params[name], strict=True))


def test_a_gradient_that_is_no_number_stops_before_the_update(make):
    trainer = make()
    before = trainer.net.params["conv1_1"][0].detach().clone()
    trainer.net.params["fc6"][0].register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(SolverError, match=r"a gradient is not finite: layer 'fc6.*there is no snapshot yet"):
        trainer.step(1)
    assert torch.equal(before, trainer.net.params["conv1_1"][0])


def test_a_runaway_loss_is_traced_to_its_layer(make):
    trainer = make()
    trainer.step(2)
    with torch.no_grad():
        trainer.net.params["rpn_bbox_pred"][1][::4] = 1e7
    with pytest.raises(SolverError, match="the loss ran away.*layer 'rpn_.*bbox.*produces most of it"):
        trainer.step(1)


# -- data, speed, recording ------------------------------------------------------------------------------------


def test_data_sets_are_joined(small, capsys):
    own = f"sbd:{small.folder / 'data' / 'shapes'}"
    arguments = small.training("joined", 1)
    arguments[arguments.index("shapes_train")] = f"{own}:train+{own}:val"
    assert run(train_net.main, arguments) == 0
    assert "24 roidb entries" in capsys.readouterr().out


def test_random_runs_differ_and_seeded_ones_do_not(small):
    for name, flags in (("seeded", ()), ("random", ("--rand",))):
        assert run(train_net.main, small.training(name, 1, *flags)) == 0
    assert run(train_net.main, small.training("seeded again", 1)) == 0
    assert same(small.snapshot("seeded", 1), small.snapshot("seeded again", 1))
    assert not same(small.snapshot("seeded", 1), small.snapshot("random", 1))


def test_bfloat16_products_keep_parameters_and_the_course(make):
    whole, mixed = make(), make()
    mixed_precision.use_bfloat16(mixed.net)
    expected = whole.forward()["rpn_cls_loss"].detach()
    np.random.seed(3)
    got = mixed.forward()["rpn_cls_loss"].detach()
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0)
    mixed.step(2)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in mixed.net.parameters())
    with pytest.raises(CaffeError, match="float32 parameters"):
        mixed_precision.use_bfloat16(Net(PROTOTXT / "test.prototxt").double())


def test_compiled_pieces_make_the_same_pass(make, monkeypatch):
    """The pieces themselves; what torch.compile makes of them is torch's business."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function) or function)
    whole, pieces = make(), make()
    pieces.forward = compiled_net.CompiledNet(pieces.net)
    assert len(compiled) > 3
    np.random.seed(7)
    whole.step(2)
    np.random.seed(7)
    pieces.step(2)
    for blob, other in zip(whole.net.parameters(), pieces.net.parameters(), strict=True):
        assert torch.equal(blob, other)


def test_record_continues_and_drops_torn_lines(tmp_path):
    (tmp_path / "run.jsonl").write_text('{"iter": 0, "loss": 3.0}\n{"iter": 5, "loss": 2.0}\n{"iter": 10, "lo')
    record = TrainingRecord(tmp_path / "run", first=5)
    record(5, {"loss": 2.5, "lr": 0.1, "accuracy": 0.5})
    record.close()
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [3.0, 2.5]
    assert cv2.imread(str(tmp_path / "run.png")) is not None


def test_tensorboard_files(tmp_path):
    pytest.importorskip("tensorboard")
    record = TrainingRecord(tmp_path / "run", tensorboard=tmp_path / "events")
    record(0, {"loss": 2.5})
    record.close()
    assert any((tmp_path / "events").iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--imdb", "shapes_trian"], "did you mean shapes_train"),
        (["--iters", "-1"], "not negative"),
        (["--resume", "nowhere.solverstate"], "nowhere.solverstate"),
        (["--weights", "nowhere.caffemodel"], "nowhere.caffemodel"),
    ],
)
def test_mistakes_are_one_line(small, capsys, flags, message):
    arguments = small.training("mistakes", 1, *flags)
    assert run(train_net.main, arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and "error: " in error
