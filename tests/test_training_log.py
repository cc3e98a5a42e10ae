"""Reading training logs, and the verbs parse-log and plot-training-log."""

import csv
import math

import cv2
import pytest

from caffe_bridge import cli, training_log
from caffe_bridge.errors import CaffeError

# As Caffe itself writes it: a header, two lines at a time of another program, a run over New Year.
LOG = """Log file created at: 2020/12/31 23:59:50
Iteration 7 is no log line
I1231 23:59:50.000000  4242 caffe.cpp:204] Using GPUs 0
I1231 23:59:50.500000  4242 solver.cpp:45] Initializing solver from parameters:
base_lr: 0.01
I1231 23:59:51.000000  4242 solver.cpp:279] Solving LeNet
I1231 23:59:51.250000  4242 solver.cpp:337] Iteration 0, Testing net (#0)
I1231 23:59:52.000000  4242 solver.cpp:404]     Test net output #0: accuracy = 0.125
I1231 23:59:52.000000  4242 solver.cpp:404]     Test net output #1: loss = 2.5 (* 1 = 2.5 loss)
I1231 23:59:53.000000  4242 solver.cpp:228] Iteration 0, loss = 2.25
I1231 23:59:53.000000  4242 solver.cpp:244]     Train net output #0: loss = 2.25 (* 1 = 2.25 loss)
I1231 23:59:53.500000  4242 sgd_solver.cpp:106] Iteration 0, lr = 0.01
I0101 00:00:01.000000  4242 solver.cpp:218] Iteration 100 (12.5 iter/s, 8s/100 iters), loss = nan
I0101 00:00:01.000000  4242 solver.cpp:237]     Train net output #0: loss = nan (* 1 = nan loss)
I0101 00:00:01.500000  4242 sgd_solver.cpp:105] Iteration 100, lr = 1e-05
I0101 00:00:02.000000  4242 solver.cpp:330] Iteration 100, Testing net (#0)
I0101 00:00:03.000000  4242 solver.cpp:397]     Test net output #0: accuracy = 0.5
I0101 00:00:03.000000  4242 solver.cpp:397]     Test net output #1: loss = 0.75 (* 1 = 0.75 loss)
I0101 00:00:04.000000  4242 solver.cpp:330] Iteration 100, Testing net (#1)
I0101 00:00:05.000000  4242 solver.cpp:397]     Test net output #0: accuracy = 0.25
"""


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "run.log"
    path.write_text(LOG)
    return path


def test_rows_are_those_of_bvlcs_parser(log):
    found = training_log.read(log)
    base = {"NumIters": 0.0, "LearningRate": 1e-05}
    assert found.test == [
        {**base, "Seconds": 1.0, "accuracy": 0.125, "loss": 2.5},
        {**base, "NumIters": 100.0, "Seconds": 12.0, "accuracy": 0.5, "loss": 0.75},
        {**base, "NumIters": 100.0, "Seconds": 14.0, "accuracy": 0.25},
    ]
    first, second = found.train
    assert first == {"NumIters": 0.0, "Seconds": 2.0, "LearningRate": 0.01, "loss": 2.25}
    assert second["Seconds"] == 10.0 and second["LearningRate"] == 0.01 and math.isnan(second["loss"])
    assert found.losses[0] == (0.0, 2.0, 2.25) and found.losses[1][:2] == (100.0, 10.0)
    assert found.rates == [(0.0, 2.5, 0.01), (100.0, 10.5, 1e-05)]
    assert found.loss_names == {"loss"}


def test_of_a_blob_with_several_values_the_last_is_kept(log):
    lines = [f"I0101 00:00:09.000000  1 s.cpp:1]     Test net output #{i}: class = 0.{i + 1}" for i in range(3)]
    log.write_text(LOG + "I0101 00:00:08.000000  1 s.cpp:1] Iteration 200, Testing net (#0)\n" + "\n".join(lines))
    rows = training_log.read(log).test
    assert len(rows) == 4 and rows[-1]["class"] == 0.3


def test_files_that_are_no_logs(tmp_path):
    (tmp_path / "a.log").write_bytes(b"\xff\xfe Solving nothing")
    with pytest.raises(CaffeError, match="a.log: no line says 'Solving NAME'"):
        training_log.read(tmp_path / "a.log")
    with pytest.raises(CaffeError, match="b.log: cannot be read: No such file"):
        training_log.read(tmp_path / "b.log")


def test_parse_log_writes_two_tables(log, tmp_path, capsys):
    assert cli.main(["parse_log", str(log), str(tmp_path), "--delimiter", ";", "--verbose"]) == 0
    assert capsys.readouterr().out == f"Wrote {tmp_path}/run.log.train\nWrote {tmp_path}/run.log.test\n"
    with open(tmp_path / "run.log.test", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    assert list(rows[0]) == ["NumIters", "Seconds", "LearningRate", "accuracy", "loss"]
    assert (rows[1]["NumIters"], rows[1]["accuracy"], rows[2]["loss"]) == ("100.0", "0.5", "")
    assert cli.main(["parse_log", str(log), str(tmp_path), "--delimiter", "::"]) == 2
    assert cli.main(["parse_log", str(log), str(tmp_path / "absent")]) == 2


def test_a_log_without_outputs_makes_no_files(log, tmp_path, capsys):
    log.write_text("I0101 00:00:08.000000  1 s.cpp:1] Solving it\n")
    assert cli.main(["parse_log", str(log), str(tmp_path), "--verbose"]) == 0
    assert capsys.readouterr().out.count("Not writing") == 2
    assert not list(tmp_path.glob("run.log.*"))


@pytest.mark.parametrize("chart", [0, 3, 5, 6])
def test_plots(log, tmp_path, chart):
    picture = tmp_path / "plot.png"
    assert cli.main(["plot_training_log", str(chart), str(picture), str(log), str(log)]) == 0
    assert cv2.imread(str(picture)).std() > 0


def test_what_cannot_be_plotted(log, tmp_path, capsys):
    assert cli.main(["plot-training-log", "0", str(tmp_path / "plot.jpg"), str(log)]) == 2
    assert cli.main(["plot-training-log", "0", str(tmp_path / "absent" / "plot.png"), str(log)]) == 2
    log.write_text("\n".join(line for line in LOG.splitlines() if "accuracy" not in line))
    assert cli.main(["plot-training-log", "0", str(tmp_path / "plot.png"), str(log)]) == 2
    assert "run.log: the log has no test accuracy" in capsys.readouterr().err
