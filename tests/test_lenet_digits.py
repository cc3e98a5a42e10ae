"""LeNet learns digits through the command line, survives being killed, and goes on bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_bridge.training_log import read

pytest.importorskip("sklearn")
pytest.importorskip("lmdb")

LENET = Path(__file__).parent.parent / "prototxt" / "lenet"
COMMAND = [sys.executable, "-m", "caffe_bridge.cli"]
LIMIT = 300


@pytest.fixture
def start(tmp_path):
    """Starts a training in a folder of its own, from a solver with other numbers of iterations."""
    folder = tmp_path / "data"
    folder.mkdir()
    subprocess.run([*COMMAND, "make-digits", str(folder)], check=True, capture_output=True, timeout=LIMIT)
    for name in ("train_test.prototxt", "solver.prototxt"):
        shutil.copy(LENET / name, folder)
    started = []

    def run(name, iterations, **flags):
        text = (folder / "solver.prototxt").read_text()
        for old, new in (
            ("max_iter: 400", f"max_iter: {iterations} random_seed: 1"),
            ("snapshot: 200", "snapshot: 60"),
            ("display: 50", "display: 10"),
            ("test_interval: 100", "test_interval: 300 test_initialization: false"),
            ('"lenet"', f'"{name}"'),
        ):
            assert text.count(old) == 1
            text = text.replace(old, new)
        (folder / f"{name}.prototxt").write_text(text)
        command = [*COMMAND, "train", f"--solver={name}.prototxt"]
        command += [f"--{flag}={value}" for flag, value in flags.items()]
        with open(folder / f"{name}.log", "w") as log:
            process = subprocess.Popen(command, cwd=folder, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        started.append(process)
        return process, folder

    yield run
    for process in started:
        process.kill()
        process.wait()


def kill_at(process, log, line):
    """SIGKILL a training as soon as its log has a line."""
    while line not in log.read_text():
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait(LIMIT) == -signal.SIGKILL


def test_lenet_learns_and_a_killed_run_ends_as_the_undisturbed_one(start):
    process, folder = start("whole", 300)
    assert process.wait(LIMIT) == 0, (folder / "whole.log").read_text()
    assert read(folder / "whole.log").test[-1]["accuracy"] >= 0.98

    process, _ = start("killed", 300)
    kill_at(process, folder / "killed.log", "Iteration 80,")
    assert not (folder / "killed_iter_120.solverstate").exists()
    process, _ = start("resumed", 120, snapshot="killed_iter_60.solverstate")
    assert process.wait(LIMIT) == 0, (folder / "resumed.log").read_text()
    resumed, whole = (folder / f"{name}_iter_120.caffemodel" for name in ("resumed", "whole"))
    assert resumed.read_bytes() == whole.read_bytes()
