"""What is wrong with a data set, by train-net and test-net: named, counted, and refused or skipped as --on says."""

from __future__ import annotations

import json
import os
import re
import shutil

import numpy as np
import pytest
from small_run import SmallRun

from caffe_bridge import rle, training_record
from caffe_bridge.cli import run
from caffe_bridge.datasets import get_imdb
from caffe_bridge.tools import test_net, train_net

HEIGHT, WIDTH = 64, 72


@pytest.fixture(autouse=True)
def no_curve(monkeypatch):
    monkeypatch.setattr(training_record, "plot_training", lambda *_: None)  # it would take longer than the training


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Shapes, and the same as one JSON file with six images."""
    made = SmallRun(tmp_path_factory.mktemp("small"), images=6)
    imdb = get_imdb("shapes_train", made.folder / "data" / "shapes", cache=False)
    images, annotations = [], []
    for i, path in enumerate(imdb.image_paths):
        images.append({"id": i, "file_name": os.path.basename(path), "height": HEIGHT, "width": WIDTH})
        objects = imdb.annotation(i)
        for label, (x1, y1, x2, y2), part in zip(objects.classes.tolist(), objects.boxes.tolist(), objects.masks):
            mask = np.zeros((HEIGHT, WIDTH), bool)
            mask[y1 : y2 + 1, x1 : x2 + 1] = part
            box = [x1, y1, x2 - x1 + 1, y2 - y1 + 1]
            annotations.append({"image_id": i, "category_id": label, "bbox": box, "segmentation": rle.encode(mask)})
    categories = [{"id": label, "name": name} for label, name in enumerate(imdb.classes) if label]
    made.content = {"images": images, "annotations": annotations, "categories": categories}
    return made


class Damaged:
    """A copy of the data set to be damaged."""

    def __init__(self, small, folder):
        self.small, self.folder = small, folder
        shutil.copytree(small.folder / "data" / "shapes" / "img", folder / "img")
        self.content = json.loads(json.dumps(small.content))
        self.first = self.content["annotations"][0]

    def image(self, i):
        return self.folder / "img" / self.content["images"][i]["file_name"]

    def keep(self, condition):
        self.content["annotations"] = [each for each in self.content["annotations"] if condition(each)]

    def _imdb(self, arguments, flags):
        file, text = self.folder / "set.json", json.dumps(self.content)
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
        place = next(i for i, argument in enumerate(arguments) if argument.startswith("shapes_"))
        arguments[place] = f"coco:{file}:{self.folder / 'img'}"
        return [*(word for flag in flags for word in ("--on", flag)), *arguments]

    def train(self, *flags, iters=2):
        settings = ("ROOT_DIR", str(self.folder), "TRAIN.USE_FLIPPED", "False")
        return run(train_net.main, self._imdb(self.small.training("on", iters, settings=settings), flags))

    def test(self, net, *flags):
        return run(test_net.main, self._imdb(self.small.testing("on", net), flags))


@pytest.fixture
def damaged(small, tmp_path):
    return Damaged(small, tmp_path)


def no_file(data):
    data.image(1).unlink()


def cut_file(data):
    data.image(1).write_bytes(data.image(1).read_bytes()[:40])


def no_segmentation(data):
    data.first["segmentation"] = []


def strange_box(data):
    data.first["bbox"] = [1, 2, "wide", 4]


def strange_class(data):
    data.first["category_id"] = 99


def box_outside(data):
    data.first["bbox"] = [60, 50, 20, 20]


def other_mask(data):
    data.first["segmentation"] = rle.encode(np.ones((HEIGHT + 1, WIDTH), bool))


def other_image(data):
    data.content["images"][1]["width"] = WIDTH + 1


def empty_mask(data):
    data.first["segmentation"] = rle.encode(np.zeros((HEIGHT, WIDTH), bool))


def no_object(data):
    data.keep(lambda each: each["image_id"] != 1)


def no_annotation_left(data):
    """Its only objects are of an unknown class."""
    for each in data.content["annotations"]:
        if each["image_id"] == 1:
            each["category_id"] = 99


CASES = [
    (no_file, "missing_image", 5),
    (cut_file, "missing_image", 5),
    (no_segmentation, "bad_annotation", 6),
    (strange_box, "bad_annotation", 5),
    (strange_class, "unknown_class", 6),
    (box_outside, "box_outside", 6),
    (other_mask, "mask_size", 6),
    (other_image, "mask_size", 5),
    (empty_mask, "empty_object", 6),
    (no_object, "no_object", 5),
]
"""What is done, what that is, and how many images are left to train on."""


@pytest.mark.parametrize(("harm", "kind", "left"), CASES)
def test_refused(damaged, capsys, harm, kind, left):
    harm(damaged)
    assert damaged.train(f"{kind}=refuse") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(rf"error: coco:.*: {kind} \(.*\): 1 refused: [01](, object 1)?: .*--on {kind}=skip", error)


@pytest.mark.parametrize(("harm", "kind", "left"), CASES)
def test_skipped(damaged, capsys, harm, kind, left):
    if harm is not no_object and left == 6:  # the image keeps an object
        damaged.content["annotations"].append({**damaged.first})
    harm(damaged)
    assert damaged.train(f"{kind}=skip") == 0
    out, err = capsys.readouterr()
    assert re.search(rf"{kind} \(.*\): 1 skipped: [01](, object 1)?: ", err)
    assert f"{left} roidb entries" in out and "done solving" in out


def test_clipped(damaged, capsys):
    box_outside(damaged)
    assert damaged.train("box_outside=clip") == 0
    assert "box_outside (boxes that leave their image): 1 clipped: 0, object 1: has a box" in capsys.readouterr().err


def test_several_at_once(damaged, capsys):
    no_annotation_left(damaged)
    other_mask(damaged)
    damaged.image(2).unlink()
    assert damaged.train("unknown_class=skip") == 2
    error = capsys.readouterr().err
    assert "missing_image" in error and "mask_size" in error and "--on missing_image=skip --on mask_size=skip" in error
    flags = ("unknown_class=skip", "missing_image=skip", "mask_size=skip", "no_object=skip")
    assert damaged.train(*flags) == 0
    err = capsys.readouterr().err
    assert re.search(r"no_object \(.*\): \d skipped: ", err) and re.search(r"unknown_class \(.*\): \d skipped", err)


def test_nothing_left(damaged, capsys):
    damaged.content["annotations"] = []
    assert damaged.train() == 2
    assert "none of its 6 images has an object to train on" in capsys.readouterr().err


def test_an_image_that_goes_bad_while_training_is_passed_over(damaged, capsys):
    assert damaged.train() == 0
    path = damaged.image(2)
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # what is known of the data set is not read again
    capsys.readouterr()
    assert damaged.train(iters=8) == 0
    out, err = capsys.readouterr()
    assert "done solving" in out and path.name in err


def test_a_test_without_the_images_that_are_missing(damaged, small, capsys):
    assert damaged.train(iters=1) == 0
    (net,) = damaged.folder.rglob("small_iter_1.caffemodel.h5")
    damaged.image(1).unlink()
    assert damaged.test(net) == 2
    assert "--on missing_image=skip" in capsys.readouterr().err
    assert damaged.test(net, "missing_image=skip") == 0
    out, err = capsys.readouterr()
    assert "missing_image (images that are absent or cannot be decoded): 1 skipped" in err and "mAP^r@0.5" in out


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("missing_image", "say what to do, as missing_image=skip"),
        ("typo=skip", "no problem is called 'typo'"),
        ("mask_size=clip", "mask_size can be skip or refuse, not 'clip'"),
    ],
)
def test_mistakes(damaged, capsys, flag, message):
    assert damaged.train(flag) == 2
    assert message in capsys.readouterr().err
