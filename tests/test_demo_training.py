"""The demonstration that trains, made small: it runs through and names figures and pictures."""

from __future__ import annotations

import re

import cv2
import pytest
import torch

from caffe_bridge.cli import run
from caffe_bridge.tools import demo_training


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_last_lines_name_figures_and_pictures(tmp_path, capsys):
    arguments = ["--cpu", "--out", str(tmp_path / "out"), "--iters", "2", "--images", "4", "--unseen", "2"]
    assert run(demo_training.main, arguments) == 0
    lines = capsys.readouterr().out.splitlines()[-5:]
    for name, line in zip(("mAP^r@0.5", "mAP^r@0.7", "mAP^r@0.1-0.9", "mAP^b@0.5"), lines):
        assert re.fullmatch(re.escape(name) + r" = \d+\.\d %", line)
    pictures = lines[-1].removeprefix("Pictures: ").split()
    assert len(pictures) == 3 and all(cv2.imread(path) is not None for path in pictures)


def test_mistakes(tmp_path, capsys):
    assert run(demo_training.main, ["--out", str(tmp_path), "--unseen", "0"]) == 2
    assert run(demo_training.main, ["--out", str(tmp_path), "--cfg", "nowhere.yml"]) == 2
    assert "nowhere.yml" in capsys.readouterr().err
