"""The experiment scripts pass on what the original ones did."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path("experiments", "scripts", "mnc_5stage.sh")
ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(tmp_path):
    """Runs the script in a copy of the tree, with a command that only says how it was called."""
    (tmp_path / SCRIPT.parent).mkdir(parents=True)
    shutil.copy(ROOT / SCRIPT, tmp_path / SCRIPT)
    shutil.copytree(ROOT / "experiments" / "cfgs", tmp_path / "experiments" / "cfgs")
    command = tmp_path / "command.sh"
    command.write_text(
        '#!/bin/bash\nprintf "CALL"; printf "|%s" "$@"; echo\necho "Wrote snapshot to: some folder/final.h5"\n'
    )
    command.chmod(0o755)

    def script(*arguments, **environment):
        environment = {**os.environ, "CAFFE_BRIDGE": str(command), **environment}
        return subprocess.run([tmp_path / SCRIPT, *arguments], env=environment, capture_output=True, text=True)

    return script


def calls(result):
    assert result.returncode == 0, result.stdout + result.stderr
    return [line.split("|")[1:] for line in result.stdout.splitlines() if line.startswith("CALL")]


def test_defaults_and_settings(run, tmp_path):
    extra = ["--set", "EXP_DIR", "larger", "TRAIN.SCALES", "[400, 500]"]
    train, test = calls(run("1", "VGG16", *extra))
    assert train == (
        ["train-net", "--gpu", "1", "--solver", "prototxt/mnc5/solver.prototxt"]
        + ["--weights", "data/imagenet_models/VGG16.mask.caffemodel", "--imdb", "voc_2012_seg_train"]
        + ["--iters", "25000", "--cfg", "experiments/cfgs/VGG16/mnc_5stage.yml", *extra]
    )
    assert test == (
        ["test-net", "--gpu", "1", "--def", "prototxt/mnc5/test.prototxt", "--net", "some folder/final.h5"]
        + ["--imdb", "voc_2012_seg_val", "--cfg", "experiments/cfgs/VGG16/mnc_5stage.yml", "--task", "seg", *extra]
    )
    assert len(list((tmp_path / "experiments" / "logs").iterdir())) == 1


def test_cpu_and_environment(run):
    train, test = calls(run("cpu", "VGG16", ITERS="3", DATASET_TRAIN="shapes_train", NET_INIT="mine.h5"))
    assert train[1:2] == ["--cpu"] == test[1:2]
    assert train[train.index("--iters") + 1] == "3" and train[train.index("--weights") + 1] == "mine.h5"
    assert train[train.index("--imdb") + 1] == "shapes_train"


@pytest.mark.parametrize("depth", ["50", "101"])
def test_residual_nets(run, depth):
    train, test = calls(run("cpu", f"ResNet{depth}"))
    assert train[train.index("--solver") + 1] == f"prototxt/mnc5_resnet{depth}/solver.prototxt"
    assert train[train.index("--weights") + 1] == f"data/imagenet_models/ResNet-{depth}-model.caffemodel"
    assert test[test.index("--def") + 1] == f"prototxt/mnc5_resnet{depth}/test.prototxt"
    for call, flag in ((train, "--cfg"), (train, "--solver"), (test, "--def")):
        assert (ROOT / call[call.index(flag) + 1]).is_file()


@pytest.mark.parametrize("arguments", [[], ["0"], ["0", "VGG99"]])
def test_mistakes(run, arguments):
    result = run(*arguments)
    assert result.returncode == 2 and result.stderr
