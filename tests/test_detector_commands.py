"""Faster and Fast R-CNN by command, under py-faster-rcnn's settings and rules."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_run import read_all

from caffe_bridge import config, definition, detection, proposals, testing
from caffe_bridge.class_count import class_count, with_classes
from caffe_bridge.cli import run
from caffe_bridge.config import cfg
from caffe_bridge.datasets import get_imdb, shapes
from caffe_bridge.images import read_image
from caffe_bridge.net import Net
from caffe_bridge.projects import project_of
from caffe_bridge.tools import rpn_generate, test_net, train_faster_rcnn_alt_opt, train_net
from caffe_bridge.training import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "prototxt" / "faster_rcnn_alt_opt_tiny"
FAST = ROOT / "prototxt" / "fast_rcnn_tiny"

SETTINGS = """
EXP_DIR: detectors
TRAIN:
  SCALES: [56]
  MAX_SIZE: 80
  BATCH_SIZE: 16
  BG_THRESH_LO: 0.0
  RPN_BATCHSIZE: 16
  RPN_MIN_SIZE: 4
  SNAPSHOT_ITERS: 2
TEST:
  SCALES: [56]
  MAX_SIZE: 80
  RPN_MIN_SIZE: 4
"""


class Folder:
    """A small data set, settings for it, and the arguments to use them; results go to output/detectors."""

    def __init__(self, path: Path):
        self.path = path
        shapes.make(str(path / "data" / "shapes"), 6, 3, (64, 72), objects=(1, 3))
        (path / "small.yml").write_text(SETTINGS)

    def common(self, *settings: str, imdb: str = "shapes_train") -> list[str]:
        places = ["ROOT_DIR", str(self.path), "DATA_DIR", str(self.path / "data")]
        own = ["--cpu", "--imdb", imdb, "--cfg", str(self.path / "small.yml")]
        return [*own, "--set", *places, *settings]

    def output(self, imdb: str = "shapes_train") -> Path:
        return self.path / "output" / "detectors" / imdb


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Folder(tmp_path_factory.mktemp("detectors"))


FOUR_STEPS = ["--net_name", "tiny", "--iters", "3,3,2,2"]


@pytest.fixture(scope="module")
def trained(folder):
    """The weights of a run of the four steps."""
    assert run(train_faster_rcnn_alt_opt.main, [*FOUR_STEPS, *folder.common()]) == 0
    return folder.output() / "tiny_faster_rcnn_final.caffemodel"


@pytest.fixture(scope="module")
def proposed(folder, trained):
    """Proposals for the images to test on."""
    arguments = ["--def", str(MODELS / "rpn_test.prototxt"), "--net", str(trained)]
    assert run(rpn_generate.main, [*arguments, *folder.common(imdb="shapes_val")]) == 0
    name = "tiny_faster_rcnn_final"
    return folder.output("shapes_val") / name / f"{name}_rpn_proposals.safetensors"


# -- four steps


def test_each_step_leaves_its_last_weights_and_a_curve(folder, trained):
    files = {path.name for path in folder.output().iterdir() if path.is_file()}
    weights = {"tiny_rpn_stage1_iter_3", "tiny_fast_rcnn_stage1_iter_3"}
    weights |= {"tiny_rpn_stage2_iter_2", "tiny_fast_rcnn_stage2_iter_2", "tiny_faster_rcnn_final"}
    assert {name for name in files if "caffemodel" in name} == {f"{name}.caffemodel" for name in weights}
    assert not any("solverstate" in name for name in files)
    assert "training_stage1_rpn.png" in files and "training_stage2_fast_rcnn.jsonl" in files


def test_the_second_round_leaves_the_common_convolutions_alone(folder, trained):
    first, rpn, last = (
        read_all(folder.output() / f"tiny_{name}.caffemodel")
        for name in ("fast_rcnn_stage1_iter_3", "rpn_stage2_iter_2", "faster_rcnn_final")
    )
    trunk = [name for name in first if name.startswith("conv")]
    assert len(trunk) == 10
    for name in trunk:
        assert np.array_equal(first[name], rpn[name]) and np.array_equal(first[name], last[name])
    assert np.array_equal(first["fc6/0"], rpn["fc6/0"]) and not np.array_equal(first["fc6/0"], last["fc6/0"])
    assert np.array_equal(rpn["rpn_cls_score/0"], last["rpn_cls_score/0"])
    assert not np.array_equal(first["rpn_cls_score/0"], rpn["rpn_cls_score/0"])


def test_what_is_done_is_not_done_again(folder, trained, capsys):
    before = trained.with_name("tiny_rpn_stage1_iter_3.caffemodel").stat().st_mtime_ns
    assert run(train_faster_rcnn_alt_opt.main, [*FOUR_STEPS, *folder.common()]) == 0
    out = capsys.readouterr().out
    assert out.count("Done before") == 6 and out.splitlines()[-1] == f"Final model: {trained}"
    assert trained.with_name("tiny_rpn_stage1_iter_3.caffemodel").stat().st_mtime_ns == before


def test_an_interrupted_step_goes_on_and_changed_ones_are_done_anew(trained, tmp_path, capsys, monkeypatch):
    other = Folder(tmp_path)
    arguments = ["--net_name", "tiny", "--iters", "3,3,2,2", *other.common()]
    snapshot = Trainer.snapshot

    def interrupted(self):
        path = snapshot(self)
        if Path(path).name == "tiny_fast_rcnn_stage1_iter_2.solverstate":
            raise KeyboardInterrupt
        return path

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "snapshot", interrupted)
        assert run(train_faster_rcnn_alt_opt.main, arguments) == 130
    capsys.readouterr()
    assert run(train_faster_rcnn_alt_opt.main, arguments) == 0
    out = capsys.readouterr().out
    assert out.count("Done before") == 2
    assert f"Going on from {other.output()}/tiny_fast_rcnn_stage1_iter_2.solverstate" in out
    mine, theirs = read_all(other.output() / trained.name), read_all(trained)
    assert mine.keys() == theirs.keys() and all(np.array_equal(mine[name], theirs[name]) for name in mine)
    assert run(train_faster_rcnn_alt_opt.main, ["--iters", "3,3,1,2", *arguments[:2], *other.common()]) == 0
    assert capsys.readouterr().out.count("Done before") == 3


def test_files_of_the_original_distribution_are_found(folder, tmp_path, capsys):
    """They are called .pt, and solvers after their iterations."""
    usual = tmp_path / "models" / "ZF" / "faster_rcnn_alt_opt"
    usual.mkdir(parents=True)
    for path in MODELS.iterdir():
        name = path.name.replace("solver", "solver60k80k").replace(".prototxt", ".pt")
        usual.joinpath(name).write_text(path.read_text().replace("_train.prototxt", "_train.pt"))
    arguments = ["--net_name", "ZF", "--iters", "1,1,1,1"]
    more = ["MODELS_DIR", str(tmp_path / "models"), "EXP_DIR", "detectors"]
    assert run(train_faster_rcnn_alt_opt.main, [*arguments, *folder.common(*more)]) == 0
    assert (folder.output() / "ZF_faster_rcnn_final.caffemodel").is_file()
    assert run(train_faster_rcnn_alt_opt.main, [*arguments[2:], "--net_name", "AlexNet", *folder.common(*more)]) == 2
    assert "no folder" in capsys.readouterr().err
    (usual / "rpn_test.pt").unlink()
    assert run(train_faster_rcnn_alt_opt.main, [*arguments, *folder.common(*more)]) == 2
    assert "has no rpn_test*" in capsys.readouterr().err


def test_an_image_is_skipped_in_every_step(tmp_path, capsys):
    other = Folder(tmp_path)
    first = Path(get_imdb("shapes_train", tmp_path / "data" / "shapes", cache=False).image_paths[0])
    first.unlink()
    arguments = ["--net_name", "tiny", "--iters", "1,1,1,1", *other.common()]
    assert run(train_faster_rcnn_alt_opt.main, arguments) == 2
    assert "--on missing_image=skip" in capsys.readouterr().err
    assert run(train_faster_rcnn_alt_opt.main, ["--on", "missing_image=skip", *arguments]) == 0
    assert (other.output() / "tiny_faster_rcnn_final.caffemodel").is_file()
    for stage in (1, 2):
        name = f"tiny_rpn_stage{stage}_iter_1"
        made = other.output() / name / f"{name}_rpn_proposals.safetensors"
        assert len(proposals.read(str(made))) == 5


# -- proposals


def test_proposals_are_those_of_the_net(folder, trained, proposed, capsys):
    imdb = get_imdb("shapes_val", folder.path / "data" / "shapes")
    found = proposals.read(str(proposed))
    config.use("py_faster_rcnn")
    config.cfg_from_file(folder.path / "small.yml")
    cfg.TEST.RPN_PRE_NMS_TOP_N, cfg.TEST.RPN_POST_NMS_TOP_N = -1, 2000
    net = Net(MODELS / "rpn_test.prototxt", trained)
    for path, boxes in zip(imdb.image_paths, found):
        expected, _ = proposals.propose(net, read_image(path))
        np.testing.assert_array_equal(boxes, expected.numpy())
    arguments = ["--def", str(MODELS / "rpn_test.prototxt"), "--net", str(trained), "--out", str(proposed) + ".pkl"]
    assert run(rpn_generate.main, [*arguments, *folder.common(imdb="shapes_val")]) == 0
    assert "proposals an image: recall" in capsys.readouterr().out
    for boxes, again in zip(found, proposals.read(str(proposed) + ".pkl"), strict=True):
        np.testing.assert_array_equal(boxes, again)
    detector = ["--def", str(FAST / "test.prototxt"), "--net", str(trained)]
    assert run(rpn_generate.main, [*detector, *folder.common(imdb="shapes_val")]) == 2
    assert "has no blob scores" in capsys.readouterr().err


def fast_rcnn(folder, *flags, imdb="shapes_train", name="fast"):
    own = ["--solver", str(FAST / "solver.prototxt"), "--iters", "2", *flags]
    return [*own, *folder.common("EXP_DIR", name, imdb=imdb)]


def test_fast_rcnn_trains_on_proposals_from_a_file(folder, trained, capsys):
    made = str(next(folder.output().glob("tiny_rpn_stage2*/*.safetensors")))
    assert run(train_net.main, fast_rcnn(folder, "--proposals", made)) == 0
    out = capsys.readouterr().out
    assert "12 roidb entries" in out and "'IMS_PER_BATCH': 2" in out and "done solving" in out
    weights = folder.path / "output" / "fast" / "shapes_train" / "fast_rcnn_tiny_iter_2.caffemodel"
    assert weights.is_file()
    # the targets were divided by what was measured, and the file has that undone
    state = weights.with_name("fast_rcnn_tiny_iter_2.solverstate")
    assert run(train_net.main, fast_rcnn(folder, "--proposals", made, "--resume", str(state))) == 0


def test_selective_search_is_where_proposals_are_expected(folder, capsys):
    import scipy.io

    assert run(train_net.main, fast_rcnn(folder)) == 2
    assert "selective_search_data/shapes_train.mat: No such file" in capsys.readouterr().err
    imdb = get_imdb("shapes_train", folder.path / "data" / "shapes")
    cells = np.empty(imdb.num_images, object)
    for i in range(imdb.num_images):
        x1, y1, x2, y2 = imdb.annotation(i).boxes.astype(float).T
        cells[i] = np.stack([y1 + 2, x1 + 3, y2, x2], axis=1)
    usual = folder.path / "data" / "selective_search_data"
    usual.mkdir()
    scipy.io.savemat(usual / "shapes_train.mat", {"boxes": cells})
    assert run(train_net.main, fast_rcnn(folder)) == 0
    shutil.rmtree(usual)
    assert run(train_net.main, [*fast_rcnn(folder), "TRAIN.PROPOSAL_METHOD", "rpn"]) == 2
    assert "name the file of proposals with --proposals" in capsys.readouterr().err
    assert run(train_net.main, [*fast_rcnn(folder), "TRAIN.PROPOSAL_METHOD", "gt"]) == 0


def test_bad_proposals_are_named_and_the_rest_goes_on(folder, tmp_path, capsys):
    imdb = get_imdb("shapes_train", folder.path / "data" / "shapes")
    boxes = [imdb.annotation(i).boxes.astype(np.float32) for i in range(imdb.num_images)]
    boxes[0] = np.concatenate([boxes[0], [[0, 0, 500, 5], [np.nan, 0, 5, 5]]])
    path = str(tmp_path / "some.safetensors")
    proposals.write(path, boxes[:-1], imdb.image_names[:-1])  # none for the last image
    assert run(train_net.main, fast_rcnn(folder, "--proposals", path)) == 0
    err = capsys.readouterr().err
    assert f"left out: {imdb.image_names[0]}: 2 of" in err and f"no proposal: {imdb.image_names[-1]}" in err
    proposals.write(path, boxes, [f"other {i}" for i in range(len(boxes))])
    assert run(train_net.main, fast_rcnn(folder, "--proposals", path)) == 2
    assert "has no proposal for any of shapes_train's 6 images" in capsys.readouterr().err
    proposals.write(path, boxes[:-1])
    assert run(train_net.main, fast_rcnn(folder, "--proposals", path)) == 2
    assert "has 6 images, there are proposals for 5" in capsys.readouterr().err
    Path(path).write_bytes(b"\x10\0\0\0\0\0\0\0{")
    assert run(train_net.main, fast_rcnn(folder, "--proposals", path)) == 2
    assert "holds no readable proposals" in capsys.readouterr().err


def test_joined_sets_take_a_file_each(folder, tmp_path, capsys):
    files = []
    for name in ("shapes_train", "shapes_val"):
        imdb = get_imdb(name, folder.path / "data" / "shapes")
        files.append(str(tmp_path / f"{name}.safetensors"))
        boxes = [imdb.annotation(i).boxes for i in range(imdb.num_images)]
        proposals.write(files[-1], boxes, imdb.image_names)
    joined = "shapes_train+shapes_val"
    assert run(train_net.main, fast_rcnn(folder, "--proposals", ",".join(files), imdb=joined)) == 0
    assert "18 roidb entries" in capsys.readouterr().out


# -- testing


def arguments_of(folder, weights, net, *flags, name="detectors"):
    own = ["--def", str(net), "--net", str(weights), *flags]
    return [*own, *folder.common("EXP_DIR", name, imdb="shapes_val")]


def test_results_are_by_py_faster_rcnns_rules(folder, trained, capsys):
    net = MODELS / "faster_rcnn_test.prototxt"
    assert run(test_net.main, arguments_of(folder, trained, net, "--vis", name="whole")) == 0
    results = folder.path / "output" / "whole" / "shapes_val" / "tiny_faster_rcnn_final"
    assert {path.name for path in results.iterdir()} == {
        "found_det",
        "found",
        "bbox.json",
        "results.json",
        "precision.png",
        "best_and_worst.png",
        *(f"comp4_det_val_{kind}.txt" for kind in ("disk", "square", "triangle", "star")),
    }
    assert "mAP^b@0.5 = " in capsys.readouterr().out
    imdb = get_imdb("shapes_val", folder.path / "data" / "shapes")
    image = read_image(imdb.image_paths[1])
    assert cv2.imread(str(results / "found" / f"{imdb.image_names[1]}.png")).shape == image.shape
    config.use("py_faster_rcnn")
    config.cfg_from_file(folder.path / "small.yml")
    rows = detection.best_detections(*detection.detect(Net(net, trained), image))
    expected = sum(map(len, rows))
    entries = json.loads((results / "bbox.json").read_text())
    found = [entry for entry in entries if entry["image_id"] == 2]
    assert expected == len(found) > 0
    limited = ["--num_dets", str(expected // 2)]
    assert run(test_net.main, arguments_of(folder, trained, net, *limited, name="whole")) == 0
    entries = json.loads((results / "bbox.json").read_text())
    assert len([entry for entry in entries if entry["image_id"] == 2]) == expected // 2


def test_mncs_rules_when_asked(folder, trained):
    own = ["--def", str(MODELS / "faster_rcnn_test.prototxt"), "--net", str(trained), "--defaults", "mnc", "--cpu"]
    small = ["TEST.SCALES", "[56]", "TEST.RPN_MIN_SIZE", "4", "TEST.RPN_POST_NMS_TOP_N", "60"]
    places = ["ROOT_DIR", str(folder.path), "DATA_DIR", str(folder.path / "data"), "EXP_DIR", "mnc"]
    arguments = [*own, "--imdb", "shapes_val", "--task", "det", "--set", *places, *small]
    assert run(test_net.main, arguments) == 0
    results = folder.path / "output" / "mnc" / "shapes_val" / "tiny_faster_rcnn_final"
    imdb = get_imdb("shapes_val", folder.path / "data" / "shapes")
    net = Net(MODELS / "faster_rcnn_test.prototxt", trained)
    found = testing.limit_scores([testing.detect_boxes(net, read_image(path)) for path in imdb.image_paths])
    assert len(json.loads((results / "bbox.json").read_text())) == sum(map(len, found))


def test_fast_rcnn_is_tested_on_proposals(folder, trained, proposed, capsys):
    flags = ["--proposals", str(proposed)]
    assert run(test_net.main, arguments_of(folder, trained, FAST / "test.prototxt", *flags, name="on file")) == 0
    results = folder.path / "output" / "on file" / "shapes_val" / "tiny_faster_rcnn_final"
    imdb = get_imdb("shapes_val", folder.path / "data" / "shapes")
    config.use("py_faster_rcnn")
    config.cfg_from_file(folder.path / "small.yml")
    given = proposals.of_dataset(imdb, str(proposed), "rpn")
    found = testing.detect_in(Net(FAST / "test.prototxt", trained), read_image(imdb.image_paths[0]), given[0])
    entries = json.loads((results / "bbox.json").read_text())
    assert len([entry for entry in entries if entry["image_id"] == 1]) == len(found) > 0
    assert run(test_net.main, arguments_of(folder, trained, FAST / "test.prototxt", name="on file")) == 2
    assert "selective_search_data/shapes_val.mat: No such file" in capsys.readouterr().err


def test_an_image_without_proposals_has_no_detections(folder, trained, proposed, tmp_path, capsys):
    imdb = get_imdb("shapes_val", folder.path / "data" / "shapes")
    path = str(tmp_path / "less.safetensors")
    proposals.write(path, proposals.read(str(proposed))[1:], imdb.image_names[1:])
    flags = ["--proposals", path]
    assert run(test_net.main, arguments_of(folder, trained, FAST / "test.prototxt", *flags, name="less")) == 0
    assert f"1 images have no proposal: {imdb.image_names[0]}" in capsys.readouterr().err
    results = folder.path / "output" / "less" / "shapes_val" / "tiny_faster_rcnn_final"
    assert {entry["image_id"] for entry in json.loads((results / "bbox.json").read_text())} == {2, 3}


# -- what a net tells


@pytest.mark.parametrize(
    ("name", "project"),
    [
        ("faster_rcnn_zf/train", "py_faster_rcnn"),
        ("faster_rcnn_zf/test", "py_faster_rcnn"),
        ("fast_rcnn_tiny/test", "py_faster_rcnn"),
        ("faster_rcnn_alt_opt_tiny/rpn_test", "py_faster_rcnn"),
        ("faster_rcnn/train", "mnc"),
        ("faster_rcnn_tiny/test", "mnc"),
        ("cfm/test", "mnc"),
        ("mnc5/train", "mnc"),
    ],
)
def test_nets_tell_their_project(name, project):
    phase = "TRAIN" if "train" in name else "TEST"
    assert project_of(definition.read_net(ROOT / "prototxt" / f"{name}.prototxt", phase)) == project


def test_an_rpn_alone_has_the_classes_of_its_data_layer():
    read = definition.read_net(MODELS / "stage1_rpn_train.prototxt", "TRAIN")
    assert class_count(read) == 5
    assert class_count(with_classes(read, 9)) == 9
