"""The demo on small pictures with the thin net; the full net is compared with the original by `caffe-bridge demo`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffe_bridge import config, rle
from caffe_bridge.cli import run
from caffe_bridge.net import Net
from caffe_bridge.tools import demo
from caffe_bridge.tools._scene import draw_scene

ROOT = Path(__file__).parent.parent
TINY = str(ROOT / "prototxt" / "mnc5_tiny" / "test.prototxt")
FAST = ("TEST.SCALES", "(96,)", "TEST.RPN_POST_NMS_TOP_N", "20")


@pytest.fixture(autouse=True)
def arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["demo.py"])


@pytest.fixture
def pictures(tmp_path):
    """Two images and a file that is none."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, size in (("a.png", (60, 80)), ("b.JPG", (90, 70))):
        cv2.imwrite(str(folder / name), draw_scene(1, *size))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    (folder / "notes.txt").write_text("no image")
    return folder


def call(*options):
    return run(demo.main, ["--def", TINY, "--cpu", "--set", *FAST, *map(str, options)])


def test_folder_with_a_broken_image(pictures, tmp_path, capsys):
    out = tmp_path / "out"
    assert call("--images", pictures, "--out", out, "--thresh", "0") == 0
    printed = capsys.readouterr()
    assert "not trained" in printed.out and f"instances.json are in {out}" in printed.out
    assert f"skipped: {pictures / 'broken.jpg'}: not an image" in printed.err
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "instances.json"]
    assert cv2.imread(str(out / "b.png")).shape == (90, 70, 3)
    entries = json.loads((out / "instances.json").read_text())
    assert {(entry["image_id"], entry["file_name"]) for entry in entries} == {(1, "a.png"), (2, "b.JPG")}
    for entry in entries:
        height, width = entry["segmentation"]["size"]
        assert (height, width) == ((60, 80) if entry["image_id"] == 1 else (90, 70))
        x, y, w, h = entry["bbox"]
        assert 0 <= x and 0 <= y and x + w <= width and y + h <= height
        assert 1 <= entry["category_id"] <= 4 and 0 <= entry["score"] <= 1
        rows, columns = np.nonzero(rle.decode(entry["segmentation"]))
        if len(rows):
            assert y <= rows.min() and rows.max() < y + h and x <= columns.min() and columns.max() < x + w


def test_results_load_in_pycocotools(pictures, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    assert call("--images", pictures / "a.png", "--out", tmp_path, "--thresh", "0") == 0
    dataset = coco.COCO()
    dataset.dataset = {
        "info": {},
        "images": [{"id": 1, "height": 60, "width": 80}],
        "categories": [{"id": i} for i in range(1, 5)],
        "annotations": [],
    }
    dataset.createIndex()
    results = dataset.loadRes(str(tmp_path / "instances.json"))
    entry = json.loads((tmp_path / "instances.json").read_text())[0]
    assert np.array_equal(results.annToMask(results.loadAnns([1])[0]), rle.decode(entry["segmentation"]))


def test_threshold_leaves_out_results(pictures, tmp_path):
    assert call("--images", pictures / "a.png", "--out", tmp_path, "--thresh", "1.1") == 0
    assert json.loads((tmp_path / "instances.json").read_text()) == []
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png")), cv2.imread(str(pictures / "a.png")))


def test_files_folders_and_patterns(pictures):
    names = [path.name for path in demo.find_images([str(pictures)])]
    assert names == ["a.png", "b.JPG", "broken.jpg"]
    pattern = str(pictures / "*.[pJ]*")
    assert [path.name for path in demo.find_images([str(pictures / "b.JPG"), pattern])] == ["b.JPG", "a.png"]
    (pictures / "a[1].png").write_bytes(b"")
    assert demo.find_images([str(pictures / "a[1].png")]) == [pictures / "a[1].png"]


def test_names_that_repeat_get_numbers():
    paths = [Path("a/x.png"), Path("b/x.jpg"), Path("x_2.bmp"), Path("c/x.png")]
    assert demo.output_names(paths) == ["x.png", "x_2.png", "x_2_2.png", "x_3.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "absent.jpg"], "absent.jpg: No such file or directory"),
        (["--images", "absent*.jpg"], "no file matches 'absent*.jpg'"),
        (["--images", "{empty}"], "no images in this folder"),
        (["--images", "{file}"], "not an image that OpenCV can read"),
        (["--set", "TEST.SCALE", "(600,)"], "there is no setting TEST.SCALE; did you mean TEST.SCALES?"),
        (["--set", "TEST.SCALES"], "'TEST.SCALES' has no value"),
        (["--cfg", "absent.yml"], "cannot read the configuration absent.yml"),
        (["--def", "absent.prototxt"], "absent.prototxt"),
        (["--net", "absent.caffemodel"], "absent.caffemodel"),
        (["--def", "{other}"], "an MNC test net takes 'data' and 'im_info'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(options, message, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    (tmp_path / "other").write_text('layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }')
    options = [str(tmp_path / option[1:-1]) if option.startswith("{") else option for option in options]
    assert run(demo.main, ["--cpu", "--def", TINY, "--out", str(tmp_path / "out"), *options]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and message in errors[0]


@pytest.mark.parametrize("options", [["--gpu", "0", "--cpu"], ["--thresh", "high"], ["--unknown"]])
def test_bad_arguments(options):
    with pytest.raises(SystemExit) as ended:
        run(demo.main, options)
    assert ended.value.code == 2


def test_absent_gpu(capsys):
    assert run(demo.main, ["--gpu", "99"]) == 2
    assert "--gpu 99: torch finds" in capsys.readouterr().err


def test_without_images_it_looks_at_scenes(tmp_path):
    assert call("--out", tmp_path) == 0
    assert {f"scene_{seed}{suffix}" for seed in demo.SCENES for suffix in (".bmp", ".png")} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_scenes_differ_by_seed_only():
    assert np.array_equal(draw_scene(3, 40, 50), draw_scene(3, 40, 50))
    assert (draw_scene(3, 40, 50) != draw_scene(4, 40, 50)).mean() > 0.5


def test_trained_weights_are_used_and_not_called_untrained(pictures, tmp_path, capsys):
    weights = str(tmp_path / "tiny.caffemodel")
    Net(TINY).save(weights)
    assert call("--net", weights, "--images", pictures / "a.png", "--out", tmp_path / "out") == 0
    assert "not trained" not in capsys.readouterr().out


def test_disagreement_with_the_recording_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "packaged_prototxt", lambda: TINY)
    monkeypatch.setattr(demo, "matches_recording", lambda net, recording: False)
    assert run(demo.main, ["--cpu", "--out", str(tmp_path / "out")]) == 1
    assert "disagrees with the original program" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_the_recording_the_comparison_is_skipped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "packaged_prototxt", lambda: TINY)
    monkeypatch.setattr(demo, "RECORDING", Path("absent.npz"))
    assert run(demo.main, ["--cpu", "--out", str(tmp_path), "--set", *FAST]) == 0
    assert "Not compared with the original program" in capsys.readouterr().out


def test_comparison_prints_a_verdict_for_each_blob(tmp_path, monkeypatch, capsys):
    names = ("rpn_cls_prob_reshape", "rpn_bbox_pred", "rois", "cls_prob")
    net = Net(TINY)
    demo.recipe.fill(net)
    blobs = net(**demo.recipe.inputs(96, 128), blobs=names)
    recorded = {name: blobs[name].detach().numpy() for name in names}
    np.savez(tmp_path / "good.npz", hw=[96, 128], **recorded)
    config.cfg.TEST.RPN_POST_NMS_TOP_N = 5  # a user's setting, which must not disturb the comparison
    assert demo.matches_recording(net, tmp_path / "good.npz")
    assert capsys.readouterr().out.count(" ok ") == len(names)
    np.savez(tmp_path / "bad.npz", hw=[96, 128], **{**recorded, "cls_prob": 1 - recorded["cls_prob"]})
    assert not demo.matches_recording(net, tmp_path / "bad.npz")
    assert "FAIL" in capsys.readouterr().out


def test_default_definition_is_packaged():
    assert Path(demo.packaged_prototxt()).read_text().startswith("# Test network")
