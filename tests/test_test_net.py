"""Testing by command: the protocol, going on, and the files it leaves."""

from __future__ import annotations

import heapq
import json
import os
import shutil

import cv2
import numpy as np
import pytest
import torch
from small_run import PROTOTXT, SmallRun

from caffe_bridge import boxes as box_arithmetic
from caffe_bridge import config, evaluation, recipe, result_files, rle, testing
from caffe_bridge.cli import run
from caffe_bridge.config import cfg
from caffe_bridge.datasets import get_imdb
from caffe_bridge.errors import CaffeError
from caffe_bridge.found import Found, FoundStore
from caffe_bridge.images import read_image
from caffe_bridge.inference import forward_stages, prepare_image
from caffe_bridge.layers import functional
from caffe_bridge.net import Net
from caffe_bridge.plots import contact_sheet
from caffe_bridge.tools import test_net as tool


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return SmallRun(tmp_path_factory.mktemp("small"), images=1)


@pytest.fixture(scope="module")
def weights(small):
    """Weights by the recipe: they find nothing sensible, but always the same."""
    net = Net(PROTOTXT / "test.prototxt")
    recipe.fill(net)
    net.save(small.folder / "net.caffemodel.h5")
    return small.folder / "net.caffemodel.h5"


@pytest.fixture
def imdb(small):
    return get_imdb("shapes_val", small.folder / "data" / "shapes")


def perfect(imdb, image):
    """The truth as if a net had found it."""
    truth = imdb.annotation(image)
    masks = np.zeros((len(truth), 63, 63), bool)
    for place, mask in zip(masks, truth.masks):
        place[:] = cv2.resize(mask.astype(np.float32), (63, 63)) >= 0.5
    boxes = np.concatenate([truth.boxes, np.linspace(0.9, 0.8, len(truth))[:, None]], axis=1).astype(np.float32)
    nothing = np.empty(0, np.float32)
    return Found(boxes, truth.classes.astype(np.int64), masks, nothing, nothing.astype(np.int64))


def nothing_found():
    return Found(np.empty((0, 5), np.float32), np.empty(0, np.int64), np.empty((0, 21, 21), bool), *_no_scores())


def _no_scores():
    return np.empty(0, np.float32), np.empty(0, np.int64)


# -- the command -----------------------------------------------------------------------------------------------


def test_results(small, weights, capsys):
    assert run(tool.main, small.testing("whole", weights)) == 0
    folder = small.output("whole", "shapes_val") / "net"
    assert {path.name for path in folder.iterdir()} == {
        "found_seg",
        "segm.json",
        "results.json",
        "precision.png",
        "best_and_worst.png",
        *(f"comp4_det_val_{name}.txt" for name in ("disk", "square", "triangle", "star")),
    }
    entries = json.loads((folder / "segm.json").read_text())
    assert entries and {entry["image_id"] for entry in entries} == {1, 2, 3, 4}
    assert all(rle.decode(entry["segmentation"]).shape == (64, 72) for entry in entries)
    results = json.loads((folder / "results.json").read_text())
    assert list(results["mean"]) == ["mAP^r@0.5", "mAP^r@0.7", "mAP^r@0.1-0.9", "mAP^b@0.5"]
    assert list(results["classes"]) == ["disk", "square", "triangle", "star"]
    out = capsys.readouterr().out
    assert f"mAP^r@0.5 = {100 * results['mean']['mAP^r@0.5']:.1f} %" in out
    for name in ("precision.png", "best_and_worst.png"):
        assert cv2.imread(str(folder / name)).std() > 0


def test_an_interrupted_test_goes_on(small, weights, monkeypatch):
    arguments = small.testing("broken off", weights)
    seen = []
    segment = testing.segment

    def interrupted(net, image):
        seen.append(image)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return segment(net, image)

    monkeypatch.setattr(testing, "segment", interrupted)
    assert run(tool.main, arguments) == 130
    assert run(tool.main, arguments) == 0
    assert len(seen) == 5
    folder = small.output("broken off", "shapes_val") / "net"
    (folder / "found_seg" / "0000001.npz").write_bytes(b"PK\x03\x04 half of a file")
    assert run(tool.main, arguments) == 0
    assert len(seen) == 6
    assert run(tool.main, small.testing("undisturbed", weights)) == 0
    other = small.output("undisturbed", "shapes_val") / "net"
    assert (folder / "segm.json").read_text() == (other / "segm.json").read_text()
    before = len(seen)
    assert run(tool.main, small.testing("broken off", weights, settings=("TEST.RPN_POST_NMS_TOP_N", "5"))) == 0
    assert len(seen) == before + 4  # other settings, other results
    assert run(tool.main, [*small.testing("broken off", weights, "--again")]) == 0
    assert len(seen) == before + 8


@pytest.mark.parametrize("task", ["det", "vis_seg"])
def test_tasks(small, weights, task):
    assert run(tool.main, small.testing(task, weights, "--task", task)) == 0
    folder = small.output(task, "shapes_val") / "net"
    if task == "det":
        assert list(json.loads((folder / "results.json").read_text())["mean"]) == ["mAP^b@0.5"]
        assert "segmentation" not in json.loads((folder / "bbox.json").read_text())[0]
    else:
        for kind in ("SegInst", "SegCls", "SegRes"):
            pictures = sorted((folder / kind).iterdir())
            assert len(pictures) == 4 and cv2.imread(str(pictures[0])).shape == (64, 72, 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--net", "nowhere.caffemodel"], "there is no such file"),
        (["--classes", "7"], "--classes 5"),
        (["--imdb", "shapes_vla"], "did you mean shapes_val"),
        (["--def", str(PROTOTXT / "missing.prototxt")], "missing.prototxt"),
    ],
)
def test_mistakes_are_one_line(small, weights, capsys, flags, message):
    assert run(tool.main, small.testing("mistakes", weights, *flags)) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


# -- the protocol ----------------------------------------------------------------------------------------------


@pytest.fixture
def net(small, weights):
    config.cfg_from_file(small.folder / "small.yml")
    return Net(PROTOTXT / "test.prototxt", weights)


def test_without_merging_each_class_is_suppressed_alone(net, imdb):
    cfg.TEST.USE_MASK_MERGE = False
    image = read_image(imdb.image_paths[0])
    found = testing.segment(net, image)
    boxes, masks, scores = (value.numpy() for value in forward_stages(net, image))
    for c in range(1, 5):
        order = np.argsort(-scores[:, c], kind="stable")[:100]
        keep = order[functional.nms(torch.from_numpy(boxes[order]), torch.from_numpy(scores[order, c]), 0.3).numpy()]
        rows = found.where(found.classes == c)
        np.testing.assert_array_equal(rows.boxes, np.column_stack([boxes[keep], scores[keep, c]]))
        np.testing.assert_array_equal(rows.masks, masks[keep, 0] >= 0.4)
        np.testing.assert_array_equal(np.sort(found.scores[found.score_classes == c]), np.sort(scores[order, c]))


def test_boxes_are_decoded_and_clipped_in_the_image(net, imdb):
    image = read_image(imdb.image_paths[0])
    data, im_info = prepare_image(image)
    with torch.no_grad():
        blobs = net(data=data, im_info=im_info, blobs=["rois", "bbox_pred", "cls_prob"])
    rois = blobs["rois"][:, 1:] / im_info[0, 2]
    boxes, _ = box_arithmetic.clip(box_arithmetic.decode(rois, blobs["bbox_pred"]), image.shape[:2])
    found = testing.detect_boxes(net, image)
    assert found.masks.shape == (len(found), 0, 0) and len(found)
    for row, c in zip(found.boxes, found.classes):
        same = (blobs["cls_prob"][:, c].numpy() == row[4]) & (boxes[:, 4 * c : 4 * c + 4].numpy() == row[:4]).all(1)
        assert same.any()


@pytest.mark.parametrize("seed", range(4))
def test_the_limit_on_a_set_is_the_one_the_original_keeps_as_it_goes(seed, monkeypatch):
    """Against MNC's heaps, image after image."""
    random = np.random.RandomState(seed)
    monkeypatch.setattr(testing, "PER_SET", 3)
    images, heaps, limits = [], [[], [], []], np.full(3, -np.inf)
    for _ in range(7):
        scores = random.randint(0, 40, (random.randint(0, 12), 2)).astype(np.float32) / 40
        kept = []
        for c in (1, 2):
            of_class = scores[:, c - 1]
            for value in of_class[of_class > limits[c]]:
                heapq.heappush(heaps[c], value)
            while len(heaps[c]) > 3 * 7:
                heapq.heappop(heaps[c])
                limits[c] = heaps[c][0]
            kept += [(c, value) for value in of_class[::2]]  # as if suppression took the others
        rows = np.array([[0, 0, 1, 1, value] for _, value in kept], np.float32).reshape(-1, 5)
        classes = np.array([c for c, _ in kept], np.int64)
        all_classes = np.repeat([[1, 2]], len(scores), 0).ravel()
        images.append(Found(rows, classes, np.zeros((len(rows), 1, 1), bool), scores.ravel(), all_classes))
    got = testing.limit_scores(images)
    for before, after in zip(images, got):
        expected = before.boxes[before.boxes[:, 4] > limits[before.classes]]
        np.testing.assert_array_equal(after.boxes, expected)
    assert np.isfinite(limits[1:]).all() and sum(map(len, got)) < sum(map(len, images))


def test_what_is_there_scores_everything_and_nothing_nothing(imdb):
    report = testing.evaluate(imdb, [perfect(imdb, i) for i in range(imdb.num_images)], "seg")
    there = [curve.instances > 0 for curve in report.boxes]
    assert [curve.ap for curve in report.boxes] == pytest.approx(np.array(there, float))
    for overlap in testing.MASK_OVERLAPS[:8]:
        assert [curve.ap for curve in report.masks[overlap]] == pytest.approx(np.array(there, float)), overlap
    empty = testing.evaluate(imdb, [nothing_found()] * imdb.num_images, "seg")
    assert set(empty.figures().values()) == {0.0}
    assert len(report.table().splitlines()) == 1 + 4 + 4


def test_boxes_pass_through_text():
    boxes = np.array([[1.04, 2.06, 10.15, 20.25, 0.98765]])
    np.testing.assert_allclose(testing.as_written(boxes), [[1.0, 2.1, 10.2, 20.2, 0.988]], rtol=0, atol=1e-12)


def test_years_choose_the_metric_of_boxes(imdb):
    found = [perfect(imdb, i) for i in range(imdb.num_images)]
    found[0] = nothing_found()
    plain = testing.evaluate(imdb, found, "det").boxes
    imdb.name = "voc_2007_test"
    old = testing.evaluate(imdb, found, "det").boxes
    partly = [i for i, curve in enumerate(plain) if 0 < curve.ap < 1]
    assert partly and all(old[i].ap != plain[i].ap for i in partly)
    assert [curve.ap for curve in testing.evaluate(imdb, found, "det", False).boxes] == [c.ap for c in plain]


# -- files -----------------------------------------------------------------------------------------------------


def test_store_keeps_what_it_is_given(tmp_path, imdb):
    store = FoundStore(tmp_path / "found", {"net": 1})
    store.open()
    found = perfect(imdb, 0)
    store.save(3, found)
    assert 3 in store and 2 not in store and store.load(2) is None
    again = FoundStore(tmp_path / "found", {"net": 1})
    again.open()
    loaded = again.load(3)
    for name in ("boxes", "classes", "masks", "scores", "score_classes"):
        got, expected = getattr(loaded, name), getattr(found, name)
        assert got.dtype == expected.dtype and np.array_equal(got, expected), name
    FoundStore(tmp_path / "found", {"net": 2}).open()
    assert 3 not in again


def test_coco_figures(imdb):
    pytest.importorskip("pycocotools")
    found = [perfect(imdb, i) for i in range(imdb.num_images)]
    entries = result_files.coco_results(imdb, found)
    for kind in ("segm", "bbox"):
        figures = result_files.coco_figures(imdb, entries, kind)
        assert list(figures)[:3] == ["AP", "AP50", "AP75"]
        assert figures["AP50"] == pytest.approx(1.0)
    assert set(result_files.coco_figures(imdb, [], "bbox").values()) == {0.0}


def test_truth_in_coco_format_is_the_data_set(imdb, tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(result_files.coco_truth(imdb)))
    images = str(tmp_path / "img")
    shutil.copytree(os.path.dirname(imdb.image_paths[0]), images)
    again = get_imdb(f"coco:{tmp_path / 'truth.json'}:{images}", cache=False)
    assert again.classes == imdb.classes
    for i in range(imdb.num_images):
        mine, theirs = imdb.annotation(i), again.annotation(i)
        np.testing.assert_array_equal(mine.boxes, theirs.boxes)
        np.testing.assert_array_equal(mine.classes, theirs.classes)
        assert all(np.array_equal(a, b) for a, b in zip(mine.masks, theirs.masks, strict=True))
    assert again.image_ids == [1, 2, 3, 4]


def test_voc_files_count_from_one(imdb, tmp_path):
    found = [perfect(imdb, i) for i in range(imdb.num_images)]
    result_files.write_voc(tmp_path, imdb, found)
    lines = [line.split() for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    first = [line for line in lines if line[0] == imdb.image_names[0]]
    x1, y1, x2, y2 = found[0].boxes[0, :4] + 1
    assert [imdb.image_names[0], "0.900", f"{x1:.1f}", f"{y1:.1f}", f"{x2:.1f}", f"{y2:.1f}"] in first
    assert len(lines) == sum(map(len, found))


def test_marks(imdb):
    found = perfect(imdb, 0)
    assert result_files.mark(imdb, 0, found) > 0.9
    assert result_files.mark(imdb, 0, nothing_found()) == 0.0
    first = found.where(np.arange(len(found)) == 0)
    truth = imdb.annotation(0)
    ((overlap,),) = evaluation.mask_overlaps(first.boxes, first.masks, truth.boxes[:1], truth.masks[:1])
    assert len(found) > 1 and overlap > 0.9
    assert result_files.mark(imdb, 0, first) == pytest.approx(overlap / (0.5 * (1 + len(found))))
    twice = (np.concatenate([value, value]) for value in (found.boxes, found.classes, found.masks))
    doubled = Found(*twice, *_no_scores())
    assert result_files.mark(imdb, 0, doubled) == pytest.approx(result_files.mark(imdb, 0, found) / 1.5)


def test_sheet_places_pictures_in_rows():
    pictures = [(str(i), np.full((10 + i, 20, 3), 10 * i, np.uint8)) for i in range(3)]
    sheet = contact_sheet(pictures, columns=2, width=40)
    assert sheet.shape[1] == 80 and sheet.shape[0] == (18 + 22) + (18 + 24)
    with pytest.raises(CaffeError, match="needs a picture"):
        contact_sheet([])
