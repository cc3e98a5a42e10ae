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
    for folder in ("cfgs", "scripts"):
        shutil.copytree(ROOT / "experiments" / folder, tmp_path / "experiments" / folder)
    (tmp_path / "prototxt").symlink_to(ROOT / "prototxt")
    command = tmp_path / "command.sh"
    command.write_text(
        '#!/bin/bash\nprintf "CALL"; printf "|%s" "$@"; echo\necho "Wrote snapshot to: some folder/final.h5"\n'
        'echo "Final model: some folder/four steps"\n[[ -z ${FAILS:-} || $1 != $FAILS* ]] || exit 3\n'
    )
    command.chmod(0o755)

    def call(*arguments, script=SCRIPT, **environment):
        environment = {**os.environ, "CAFFE_BRIDGE": str(command), **environment}
        return subprocess.run([tmp_path / script, *arguments], env=environment, capture_output=True, text=True)

    return call


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


# -- CFM

CFM = "experiments/scripts/cfm.sh"


def test_cfm(run, tmp_path):
    extra = ["--set", "EXP_DIR", "larger", "TRAIN.SCALES", "[400, 500]"]
    train, test = calls(run("1", "VGG16", *extra, script=CFM))
    assert train == (
        ["train-net", "--gpu", "1", "--solver", "prototxt/cfm/solver.prototxt"]
        + ["--weights", "data/imagenet_models/VGG16.mask.caffemodel", "--imdb", "voc_2012_seg_train"]
        + ["--iters", "30000", "--cfg", "experiments/cfgs/VGG16/cfm.yml", *extra]
    )
    assert test == (
        ["test-net", "--gpu", "1", "--def", "prototxt/cfm/test.prototxt", "--net", "some folder/final.h5"]
        + ["--imdb", "voc_2012_seg_val", "--cfg", "experiments/cfgs/VGG16/cfm.yml", "--task", "cfm", *extra]
    )
    (log,) = (tmp_path / "experiments" / "logs").iterdir()
    assert log.name.startswith("cfm_VGG16_")
    train, test = calls(run("cpu", "VGG16", script=CFM, ITERS="3", DATASET_TRAIN="shapes_train", NET_INIT="mine.h5"))
    assert train[1] == "--cpu" == test[1] and value(train, "--imdb") == "shapes_train"
    assert value(train, "--iters") == "3" and value(train, "--weights") == "mine.h5"


TINY = "experiments/scripts/cfm_tiny.sh"


def test_cfm_from_nothing(run, tmp_path):
    made = calls(run("some folder", "7", script=TINY, IMAGES="9", ITERS="3"))
    assert [call[0] for call in made] == (
        ["make-shapes"] + ["make-proposals", "prepare-mcg-maskdb"] * 2 + ["train-net", "test-net"]
    )
    shapes, train_proposals, train_masks, val_proposals, val_masks, train, test = made
    assert value(shapes, "--train") == "9" and value(shapes, "--seed") == "7"
    data = "some folder/data"
    for part, raw, masks in (("train", train_proposals, train_masks), ("val", val_proposals, val_masks)):
        assert value(raw, "--db") == value(masks, "--db") == f"shapes_{part}"
        assert value(raw, "--root") == value(masks, "--root") == value(shapes, "--out") == f"{data}/shapes"
        assert value(raw, "--out") == value(masks, "--input")
        assert value(masks, "--output") == f"{data}/cache/shapes_{part}_mcg_maskdb"  # where the commands look
        assert ("--test" in masks) == (part == "val")
    places = ["--set", "ROOT_DIR", "some folder", "DATA_DIR", data]
    for call in (train, test):
        assert call[1] == "--cpu" and call[-5:] == places and (ROOT / value(call, "--cfg")).is_file()
    assert value(train, "--iters") == "3" and value(train, "--imdb") == "shapes_train"
    assert value(test, "--imdb") == "shapes_val" and value(test, "--net") == "some folder/final.h5"
    (tmp_path / data / "shapes").mkdir(parents=True)
    assert [call[0] for call in calls(run("some folder", script=TINY))][0] == "make-proposals"


FASTER_TINY = "experiments/scripts/faster_rcnn_tiny.sh"


def test_faster_rcnn_from_nothing(run, tmp_path):
    shapes, train, test = calls(run("some folder", "7", script=FASTER_TINY, ITERS="3"))
    assert shapes[0] == "make-shapes" and value(shapes, "--seed") == "7"
    assert value(shapes, "--out") == "some folder/data/shapes" and value(shapes, "--val") == "100"
    places = ["--set", "ROOT_DIR", "some folder", "DATA_DIR", "some folder/data"]
    for call in (train, test):
        assert call[1] == "--cpu" and call[-5:] == places and (ROOT / value(call, "--cfg")).is_file()
    assert train[0] == "train-net" and value(train, "--iters") == "3" and value(train, "--imdb") == "shapes_train"
    assert value(test, "--task") == "det" and value(test, "--imdb") == "shapes_val"
    (tmp_path / "some folder" / "data" / "shapes").mkdir(parents=True)
    assert [call[0] for call in calls(run("some folder", script=FASTER_TINY))] == ["train-net", "test-net"]
    assert run("--set", script=FASTER_TINY).returncode == 2


@pytest.mark.parametrize(
    ("script", "arguments"), [(CFM, []), (CFM, ["0"]), (CFM, ["0", "VGG99"]), (TINY, ["a", "1", "2"]), (TINY, ["-h"])]
)
def test_mistakes_of_cfm(run, script, arguments):
    result = run(*arguments, script=script)
    assert result.returncode == 2 and result.stderr


# -- Faster R-CNN and Fast R-CNN

FASTER = "experiments/scripts/faster_rcnn_end2end.sh"
FOUR_STEPS = "experiments/scripts/faster_rcnn_alt_opt.sh"
FAST = "experiments/scripts/fast_rcnn.sh"


def value(call, flag):
    return call[call.index(flag) + 1]


@pytest.mark.parametrize(
    ("arguments", "folder", "cfg", "iters", "sets"),
    [
        (["VGG16"], "faster_rcnn", "VGG16/faster_rcnn_end2end", "70000", ("voc_2007_trainval", "voc_2007_test")),
        (["ZF"], "faster_rcnn_zf", "faster_rcnn_end2end", "70000", ("voc_2007_trainval", "voc_2007_test")),
        (
            ["VGG16", "pascal_voc"],
            "faster_rcnn_vgg16",
            "faster_rcnn_end2end",
            "70000",
            ("voc_2007_trainval", "voc_2007_test"),
        ),
        (
            ["VGG_CNN_M_1024", "coco"],
            "faster_rcnn_vgg_cnn_m_1024_coco",
            "faster_rcnn_end2end",
            "490000",
            ("coco_2014_train", "coco_2014_minival"),
        ),
    ],
)
def test_faster_rcnn_end_to_end(run, arguments, folder, cfg, iters, sets):
    """MNC's script takes two arguments, py-faster-rcnn's three."""
    extra = ["--set", "EXP_DIR", "larger"]
    train, test = calls(run("1", *arguments, *extra, script=FASTER))
    assert train == (
        ["train-net", "--gpu", "1", "--solver", f"prototxt/{folder}/solver.prototxt"]
        + ["--weights", f"data/imagenet_models/{arguments[0]}.v2.caffemodel", "--imdb", sets[0]]
        + ["--iters", iters, "--cfg", f"experiments/cfgs/{cfg}.yml", *extra]
    )
    assert test == (
        ["test-net", "--gpu", "1", "--def", f"prototxt/{folder}/test.prototxt", "--net", "some folder/final.h5"]
        + ["--imdb", sets[1], "--cfg", f"experiments/cfgs/{cfg}.yml", "--task", "det", *extra]
    )


def test_faster_rcnn_in_four_steps(run):
    train, test = calls(run("cpu", "ZF", "pascal_voc", script=FOUR_STEPS))
    assert train[:4] == ["train-faster-rcnn-alt-opt", "--cpu", "--net_name", "ZF"]
    assert value(train, "--models") == "prototxt/faster_rcnn_alt_opt_zf"
    assert value(train, "--iters") == "80000,40000,80000,40000" and value(train, "--imdb") == "voc_2007_trainval"
    assert value(test, "--def") == "prototxt/faster_rcnn_alt_opt_zf/faster_rcnn_test.prototxt"
    assert value(test, "--net") == "some folder/four steps" and value(test, "--imdb") == "voc_2007_test"


def test_fast_rcnn(run):
    train, test = calls(run("0", "VGG16", "pascal_voc", script=FAST))
    assert train == (
        ["train-net", "--gpu", "0", "--solver", "prototxt/fast_rcnn_vgg16/solver.prototxt", "--weights"]
        + ["data/imagenet_models/VGG16.v2.caffemodel", "--imdb", "voc_2007_trainval", "--iters", "40000"]
    )
    train, test = calls(
        run("0", "VGG16", "coco", script=FAST, PROPOSALS_TRAIN="some boxes.mat", PROPOSALS_TEST="others.mat")
    )
    assert value(train, "--proposals") == "some boxes.mat" and value(train, "--iters") == "280000"
    assert value(test, "--proposals") == "others.mat" and value(test, "--task") == "det"
    assert all("--cfg" not in call for call in calls(run("0", "ZF", "pascal_voc", script=FAST, CFG="elsewhere.yml")))


def test_nothing_is_tested_after_a_training_that_failed(run, tmp_path):
    for script in (SCRIPT, CFM, FASTER, FAST, FOUR_STEPS, TINY, FASTER_TINY):
        arguments = ["some folder"] if script in (TINY, FASTER_TINY) else ["cpu", "VGG16", "pascal_voc"]
        result = run(*arguments, script=script, FAILS="train")
        called = [line.split("|")[1] for line in result.stdout.splitlines() if line.startswith("CALL")]
        assert result.returncode == 3 and called[-1].startswith("train") and "test-net" not in called


def test_nets_of_the_original_distribution(run, tmp_path):
    for kind, script in (("faster_rcnn_end2end", FASTER), ("fast_rcnn", FAST), ("faster_rcnn_alt_opt", FOUR_STEPS)):
        folder = tmp_path / "its models" / "pascal_voc" / "ZF" / kind
        folder.mkdir(parents=True)
        for name in ("solver.prototxt", "faster_rcnn_test.pt"):
            (folder / name).touch()
        train, test = calls(run("0", "ZF", "pascal_voc", script=script, MODELS=str(tmp_path / "its models")))
        assert any(part.startswith(str(folder)) for part in train) and value(test, "--def").startswith(str(folder))


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        (FASTER, ["0"]),
        (FASTER, ["0", "VGG99"]),
        (FASTER, ["0", "ZF", "coco"]),
        (FASTER, ["0", "ZF", "imagenet"]),
        (FOUR_STEPS, ["0", "ZF"]),
        (FOUR_STEPS, ["0", "ZF", "coco"]),
        (FAST, ["0", "ZF"]),
        (FAST, ["0", "ZF", "elsewhere"]),
    ],
)
def test_mistakes_of_detectors(run, script, arguments):
    result = run(*arguments, script=script)
    assert result.returncode == 2 and result.stderr
