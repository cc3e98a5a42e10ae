"""train, test, time and device_query as the `caffe` program has them."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from caffe_bridge import cli, log, training_log

NET = """
name: "regression"
layer { name: "data" type: "DummyData" top: "data" top: "target"
        dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 2 }
                           data_filler { type: "gaussian" } data_filler { type: "gaussian" std: 2 } } }
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1" param { name: "w" } param { lr_mult: 0 }
        inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2"
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "extra" type: "Power" bottom: "fc2" top: "extra" include { stage: "more" } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc2" bottom: "target" top: "loss" loss_weight: 0.5 }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 4 display: 2 test_iter: 2 test_interval: 2
snapshot_prefix: "snap" random_seed: 3
"""
GLOG = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \w+\.py:\d+\] ")


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Log handler, modules called caffe and argv are as before."""
    logger = logging.getLogger("caffe_bridge")
    before, level, modules = list(logger.handlers), logger.level, set(sys.modules)
    monkeypatch.setattr(sys, "argv", ["caffe-bridge"])
    yield
    logger.handlers[:] = before
    logger.setLevel(level)
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] == "caffe":
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def messages(capsys):
    """What was logged to stderr, without the prefixes of its lines."""
    return [GLOG.sub("", line) for line in capsys.readouterr().err.splitlines()]


def error(capsys, *arguments):
    """The one line with which a command fails, after whatever it logged."""
    assert cli.main([*arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if ": error: " in line] == lines[-1:]
    return lines[-1]


def test_training_logs_what_caffe_does(folder, capsys):
    assert cli.main(["train", "--solver", "solver.prototxt"]) == 0
    text = capsys.readouterr().err
    (folder / "train.log").write_text(text)
    lines = [GLOG.sub("", line) for line in text.splitlines()]
    expected = [
        "Use CPU.",
        "Initializing solver from parameters: ",
        "Creating training net from net file: net.prototxt",
        "Creating test net (#0) specified by net file: net.prototxt",
        "Solver scaffolding done.",
        "Starting Optimization",
        "Solving regression",
        "Learning Rate Policy: fixed",
        "Iteration 0, Testing net (#0)",
        "Iteration 0, lr = 0.01",
        "Iteration 2, Testing net (#0)",
        "Snapshotting to binary proto file snap_iter_4.caffemodel",
        "Iteration 4, Testing net (#0)",
        "Optimization Done.",
    ]
    assert [line for line in lines if line in expected] == [*expected, "Optimization Done."]
    assert (folder / "snap_iter_4.solverstate").exists()

    found = training_log.read(folder / "train.log")
    assert [row["NumIters"] for row in found.train] == [0, 2] and [row["NumIters"] for row in found.test] == [0, 2, 4]
    assert [loss[0] for loss in found.losses] == [0, 2, 4] and found.loss_names == {"loss"}


def test_bvlcs_log_parsers_find_their_fields(folder, capsys):
    assert cli.main(["train", "-solver=solver.prototxt"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if GLOG.match(line)]

    def one(part):
        return next(line for line in lines if part in line)

    output = one("Test net output #0")
    assert re.search(r"Test net output #(\d+): (\S+) = ([\.\deE+-]+)", output)[2] == "loss"
    assert float(output.split()[10]) > 0 and output.endswith(" loss)")  # awk's $11
    rate = one(", lr = ")
    assert re.search(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)", rate)[1] == rate.split()[8] == "0.01"
    assert float(one(", loss = ").split("=")[1]) > 0
    assert re.match(r"I\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+\] Solving ", one("] Solving "))


def test_resuming_ends_as_the_undisturbed_run_did(folder, capsys):
    (folder / "solver.prototxt").write_text(SOLVER + "snapshot: 2")
    assert cli.main(["train", "--solver", "solver.prototxt"]) == 0
    undisturbed = (folder / "snap_iter_4.caffemodel").read_bytes()
    (folder / "snap_iter_4.caffemodel").unlink()
    capsys.readouterr()
    assert cli.main(["train", "--solver=solver.prototxt", "--snapshot=snap_iter_2.solverstate"]) == 0
    assert "Resuming from snap_iter_2.solverstate" in messages(capsys)
    assert (folder / "snap_iter_4.caffemodel").read_bytes() == undisturbed


def test_stages_level_and_weights_reach_the_nets(folder, capsys):
    (folder / "solver.prototxt").write_text(SOLVER + 'weights: "of_the_solver.caffemodel"')
    assert "of_the_solver.caffemodel" in error(capsys, "train", "--solver", "solver.prototxt")
    (folder / "solver.prototxt").write_text(SOLVER)
    assert cli.main(["train", "--solver", "solver.prototxt", "-stage", "more,other", "-level", "3"]) == 0
    lines = messages(capsys)
    assert '  stage: "other"' in lines and "  level: 3" in lines
    outputs = {match[1] for line in lines if (match := re.match(r" +Train net output #\d+: (\w+)", line))}
    assert outputs == {"extra", "loss"}
    weights = "snap_iter_4.caffemodel, snap_iter_4.caffemodel"
    assert cli.main(["train", "--solver", "solver.prototxt", "--weights", weights]) == 0
    assert messages(capsys).count("Finetuning from snap_iter_4.caffemodel") == 2


def test_solvers_are_found_from_elsewhere(folder, capsys, monkeypatch):
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert cli.main(["train", "--solver", "../solver.prototxt"]) == 0
    assert (folder / "below" / "snap_iter_4.caffemodel").exists()


def test_debug_info_is_logged_when_display_is(folder, capsys):
    (folder / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 3 display: 2 debug_info: true'
    )
    assert cli.main(["train", "--solver", "solver.prototxt"]) == 0
    lines = [re.sub(r"\d\S*$", "N", line) for line in messages(capsys) if line.startswith("    [")]
    assert len(lines) == 2 * (10 + 6 + 1)
    assert lines[:4] == [
        "    [Forward] Layer data, top blob data data: N",
        "    [Forward] Layer data, top blob target data: N",
        "    [Forward] Layer fc1, top blob fc1 data: N",
        "    [Forward] Layer fc1, param blob w data: N",
    ]
    assert lines[10:16] == [
        "    [Backward] Layer loss, bottom blob fc2 diff: N",
        "    [Backward] Layer fc2, bottom blob fc1 diff: N",
        "    [Backward] Layer fc2, param blob 0 diff: N",
        "    [Backward] Layer fc2, param blob 1 diff: N",
        "    [Backward] Layer relu, bottom blob fc1 diff: N",
        "    [Backward] Layer fc1, param blob 0 diff: N",
    ]
    assert lines[16].startswith("    [Backward] All net params (data, diff): L1 norm = (")


def test_a_nets_own_debug_info(folder, capsys):
    from caffe_bridge import pycaffe

    (folder / "net.prototxt").write_text("debug_info: true\n" + NET)
    net = pycaffe.Net("net.prototxt", pycaffe.TEST)
    log.show(0)
    net.forward(end="data")
    mean = abs(net.blobs["data"].data).mean()
    assert messages(capsys)[0] == f"    [Forward] Layer data, top blob data data: {mean:.6g}"


def test_scores_are_logged_batch_by_batch_then_on_average(folder, capsys):
    assert cli.main(["train", "--solver", "solver.prototxt"]) == 0
    capsys.readouterr()
    arguments = ["--model", "net.prototxt", "--weights", "snap_iter_4.caffemodel", "-iterations", "3"]
    assert cli.main(["test", *arguments]) == 0
    lines = messages(capsys)
    assert lines[:2] == ["Use CPU.", "Running for 3 iterations."]
    scores = [float(re.fullmatch(rf"Batch {i}, loss = (\S+)", line)[1]) for i, line in enumerate(lines[2:5])]
    mean = sum(scores) / 3
    assert float(lines[5].removeprefix("Loss: ")) == pytest.approx(mean / 2, rel=1e-4)
    found = re.fullmatch(r"loss = (\S+) \(\* 0\.5 = (\S+) loss\)", lines[6])
    assert [float(value) for value in found.groups()] == pytest.approx([mean, mean / 2], rel=1e-4)


def test_times_are_logged_layer_by_layer(folder, capsys):
    assert cli.main(["time", "-model=net.prototxt", "-iterations=2", "-phase=TEST"]) == 0
    lines = messages(capsys)
    assert [line for line in lines if line.startswith("Iteration: ")][1].startswith(
        "Iteration: 2 forward-backward time: "
    )
    layers = [re.fullmatch(r" *(\w+)\t(forward|backward): \S+ ms\.", line) for line in lines]
    names = ["data", "fc1", "relu", "fc2", "loss"]
    assert [match.groups() for match in layers if match] == [(n, d) for n in names for d in ("forward", "backward")]
    assert [line.partition(":")[0] for line in lines[-5:]] == [
        "Average Forward pass",
        "Average Backward pass",
        "Average Forward-Backward",
        "Total Time",
        "*** Benchmark ends ***",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(folder, capsys):
    assert cli.main(["device_query", "--gpu", "all"]) == 0
    assert capsys.readouterr().out == "No cuda device present.\n"
    (folder / "solver.prototxt").write_text(SOLVER + "solver_mode: GPU")
    assert cli.main(["train", "--solver", "solver.prototxt"]) == 0
    assert messages(capsys)[:2] == ["solver_mode is GPU, but torch finds no GPU here", "Use CPU."]
    assert "--gpu 0: there is no such GPU; torch finds none" in error(
        capsys, "train", "--solver", "solver.prototxt", "-gpu", "0"
    )
    assert "--gpu all: torch finds no GPU" in error(capsys, "time", "--model", "net.prototxt", "--gpu", "all")


def test_several_gpus_need_torchrun(folder, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "torchrun" in error(capsys, "train", "--solver", "solver.prototxt", "--gpu", "0,1")
    assert "torchrun" in error(capsys, "train", "--solver", "solver.prototxt", "--gpu", "all")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "train needs a solver definition"),
        (["train", "--solver", "a", "--snapshot", "b", "--weights", "c"], "not both"),
        (["train", "--solver", "absent.prototxt"], "absent.prototxt"),
        (["train", "--solver", "solver.prototxt", "--sigint_effect", "halt"], "the effect of SIGINT"),
        (["train", "--solver", "solver.prototxt", "--gpu", "first"], "--gpu is a number"),
        (["train", "--sol", "solver.prototxt"], "--sol"),
        (["train", "--solver", "solver.prototxt", "--level", "x"], "invalid int value: 'x'"),
        (["train", "--solver", "solver.prototxt", "--snapshot", "absent.solverstate"], "absent.solverstate"),
        (["test", "--model", "net.prototxt"], "test needs weights"),
        (["test", "--weights", "w"], "test needs a net definition"),
        (["test", "--model", "net.prototxt", "--weights", "w", "--iterations", "0"], "--iterations is at least 1"),
        (["time"], "time needs a net definition"),
        (["time", "--model", "net.prototxt", "--phase", "BOTH"], "--phase is TRAIN or TEST"),
    ],
)
def test_bad_flags_are_one_line_and_status_2(folder, capsys, arguments, message):
    assert message in error(capsys, *arguments)


@pytest.mark.parametrize(("number", "flags"), [(signal.SIGINT, []), (signal.SIGHUP, ["--sighup_effect=stop"])])
def test_signals_stop_a_training_and_snapshots_go_on(folder, number, flags):
    solver = SOLVER.replace("max_iter: 4", "max_iter: 1000000000").replace("display: 2", "display: 100")
    (folder / "solver.prototxt").write_text(solver.replace("test_iter: 2 test_interval: 2", ""))
    command = [sys.executable, "-m", "caffe_bridge.cli", "train", "--solver=solver.prototxt", *flags]
    with open("train.log", "w") as file:
        process = subprocess.Popen(command, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:

        def wait_for(condition):
            deadline = time.monotonic() + 120
            while not condition():
                assert process.poll() is None and time.monotonic() < deadline, (folder / "train.log").read_text()
                time.sleep(0.02)

        wait_for(lambda: "Iteration 0, lr" in (folder / "train.log").read_text())
        if number == signal.SIGINT:
            process.send_signal(signal.SIGHUP)
            wait_for(lambda: list(folder.glob("snap_iter_*.solverstate")))
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    text = (folder / "train.log").read_text()
    assert "Optimization stopped early." in text and "Traceback" not in text
    assert len(list(folder.glob("snap_iter_*.solverstate"))) == (2 if number == signal.SIGINT else 1)
