"""Every format gives the objects that were written; whatever is wrong with a data set is named, counted and handled."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from caffe_bridge import evaluation, rle, roidb
from caffe_bridge.config import cfg
from caffe_bridge.datasets import get_imdb, list_imdbs, problems
from caffe_bridge.datasets.annotation import PackedMasks
from caffe_bridge.datasets.polygons import fill
from caffe_bridge.datasets.voc import colours
from caffe_bridge.errors import CaffeError

SIZE = 40, 60
FIRST = (slice(5, 15), slice(10, 30))  # a square piece of class 1 and an overlapping L of class 2
SECOND = (slice(12, 35), slice(25, 50))


def instances():
    numbers = np.zeros(SIZE, np.uint8)
    numbers[FIRST] = 1
    numbers[SECOND] = 2
    return numbers


def picture(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.randint(0, 256, (*size, 3), np.uint8))


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def check_objects(annotation, numbers=None, classes=(1, 2)):
    """The objects of `instances`."""
    numbers = instances() if numbers is None else numbers
    assert annotation.classes.tolist() == list(classes) and annotation.classes.dtype == np.int32
    assert not annotation.difficult.any()
    for number, (box, mask) in enumerate(zip(annotation.boxes, annotation.masks), 1):
        x1, y1, x2, y2 = box
        full = np.zeros(SIZE, bool)
        full[y1 : y2 + 1, x1 : x2 + 1] = mask
        assert mask.shape == (y2 - y1 + 1, x2 - x1 + 1) and mask.dtype == bool
        np.testing.assert_array_equal(full, numbers == number)


def sbd(root, names=("a", "b"), numbers=None, categories=(1, 2), with_categories=True, image_set="train"):
    text(root / f"{image_set}.txt", "".join(f"{name}\n" for name in names))
    numbers = instances() if numbers is None else numbers
    for name in names:
        picture(root / "img" / f"{name}.jpg")
        fields = {"Segmentation": numbers, "Boundaries": np.zeros((2, 1))}
        if with_categories:
            fields["Categories"] = np.array(categories, np.uint8)[:, None]
        for kind, variable, struct in (
            ("inst", "GTinst", fields),
            ("cls", "GTcls", {"Segmentation": np.array([0, *categories], np.uint8)[numbers]}),
        ):
            (root / kind).mkdir(exist_ok=True)
            scipy.io.savemat(root / kind / f"{name}.mat", {variable: struct})
    return root


VOC_OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"""


def voc(root, objects, names=("000001",), image_set="trainval"):
    """Detection annotations; boxes count from 1."""
    text(root / "ImageSets" / "Main" / f"{image_set}.txt", "".join(f"{name}\n" for name in names))
    for name in names:
        picture(root / "JPEGImages" / f"{name}.jpg")
        body = "".join(VOC_OBJECT.format(name=name, box=box, difficult=hard) for name, box, hard in objects)
        text(root / "Annotations" / f"{name}.xml", f"<annotation>{body}</annotation>")
    return root


def coco(root, annotations, images=None, categories=({"id": 7, "name": "cat"}, {"id": 3, "name": "dog"})):
    images = images or [{"id": 1, "file_name": "one.png", "width": SIZE[1], "height": SIZE[0]}]
    for image in images:
        picture(root / "images" / image["file_name"])
    content = {"images": images, "categories": list(categories), "annotations": annotations}
    text(root / "instances.json", json.dumps(content))
    return f"coco:{root / 'instances.json'}:{root / 'images'}"


def thing(mask=None, **changes):
    mask = instances() == 1 if mask is None else mask
    return {"id": 5, "image_id": 1, "category_id": 7, "segmentation": rle.encode(mask), **changes}


@pytest.mark.parametrize("with_categories", [True, False])
def test_sbd(tmp_path, with_categories):
    dataset = get_imdb("voc_2012_seg_train", sbd(tmp_path, categories=(12, 20), with_categories=with_categories))
    assert dataset.name == "voc_2012_seg_train" and dataset.num_images == 2
    assert dataset.num_classes == 21 and dataset.classes[12] == "dog"
    assert dataset.image_paths == [str(tmp_path / "img" / f"{name}.jpg") for name in "ab"]
    assert dataset.image_size(1) == SIZE
    check_objects(dataset.annotation(1), classes=(12, 20))


def test_voc_detection_counts_from_zero_and_keeps_difficult_objects_for_evaluation(tmp_path):
    objects = [("dog", (11, 6, 30, 15), 0), ("Person ", (1, 1, 60, 40), 1), ("dog", (2.0, 3, 4, 5), 1)]
    dataset = get_imdb("voc_2007_trainval", voc(tmp_path / "VOC2007", objects).parent)
    assert dataset.annotation(0).boxes.tolist() == [[10, 5, 29, 14], [0, 0, 59, 39], [1, 2, 3, 4]]
    assert [entry["boxes"].tolist() for entry in dataset.roidb()] == [[[10, 5, 29, 14]]]
    boxes, difficult = dataset.true_boxes(dataset.classes.index("dog"))
    assert boxes[0].tolist() == [[10, 5, 29, 14], [1, 2, 3, 4]] and difficult[0].tolist() == [False, True]
    detections = [np.array([[10, 5, 29, 14, 0.9], [1, 2, 3, 4, 0.8]])]
    assert evaluation.box_ap(detections, boxes, difficult) == 1
    with pytest.raises(CaffeError, match="boxes but no masks"):
        dataset.maskdb()


@pytest.mark.parametrize("coloured", [True, False])
def test_voc_segmentation(tmp_path, coloured):
    numbers, classes = instances(), np.array([0, 15, 8], np.uint8)[instances()]
    numbers[0], classes[:, 0] = 255, 255
    picture(tmp_path / "JPEGImages" / "a.jpg")
    text(tmp_path / "ImageSets" / "Segmentation" / "val.txt", "a\n")
    for kind, values in (("Object", numbers), ("Class", classes)):
        (tmp_path / f"Segmentation{kind}").mkdir()
        pixels = colours()[values] if coloured else values
        cv2.imwrite(str(tmp_path / f"Segmentation{kind}" / "a.png"), pixels)
    check_objects(get_imdb("voc_2012_segmentation_val", tmp_path).annotation(0), classes=(15, 8))


def test_voc_colours():
    assert colours()[[0, 1, 2, 15, 20, 255], ::-1].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192],
    ]  # fmt: skip


def test_coco_runs_polygons_and_crowds(tmp_path):
    counts = {"size": list(SIZE), "counts": rle.count_runs(instances() == 2)}
    annotations = [
        thing(),
        thing(segmentation=counts, category_id=3, bbox=[25, 12, 25, 23]),
        thing(segmentation=[[2, 2, 8, 2, 8, 6, 2, 6], [20, 30, 22, 30, 22, 33, 20, 33]]),
        thing(iscrowd=1),
    ]
    dataset = get_imdb(coco(tmp_path, annotations))
    assert dataset.classes == ("__background__", "cat", "dog")
    annotation = dataset.annotation(0)
    check_objects(annotation.where(np.arange(4) < 2))
    assert annotation.boxes[2].tolist() == [2, 2, 21, 32] and annotation.masks[2].sum() == 6 * 4 + 2 * 3
    assert annotation.difficult.tolist() == [False, False, False, True]
    assert len(dataset.roidb()[0]["boxes"]) == len(dataset.maskdb()[0]["gt_masks"]) == 3


def test_coco_folders_and_boxes_of_fractions(tmp_path, monkeypatch):
    coco(tmp_path, [thing(bbox=[10.6, 5.2, 20, 10])])
    (tmp_path / "annotations").mkdir()
    os.rename(tmp_path / "instances.json", tmp_path / "annotations" / "instances_val2017.json")
    (tmp_path / "images" / "val2017").mkdir()
    os.rename(tmp_path / "images" / "one.png", tmp_path / "images" / "val2017" / "one.png")
    assert get_imdb("coco_2017_val", tmp_path).annotation(0).boxes.tolist() == [[10, 5, 29, 14]]


def test_a_folder_of_masks(tmp_path):
    text(tmp_path / "classes.txt", "cup\ncup_board\n")
    text(tmp_path / "val.txt", "a\n")
    picture(tmp_path / "images" / "a.png")
    for name, number in (("cup_1.png", 1), ("cup_board_big.png", 2)):
        (tmp_path / "masks" / "a").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "masks" / "a" / name), (instances() == number).astype(np.uint8) * 255)
    check_objects(get_imdb(f"masks:{tmp_path}:val").annotation(0))


def documented(language, name):
    """The block of a language that holds `name` in docs/datasets.md."""
    page = (Path(__file__).parent.parent / "docs" / "datasets.md").read_text()
    return next(block for block in re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL) if name in block)


def test_the_documented_json_is_a_data_set(tmp_path):
    text(tmp_path / "train.json", documented("json", "categories"))
    picture(tmp_path / "images" / "garden.jpg", (480, 640))
    dataset = get_imdb(f"coco:{tmp_path / 'train.json'}:{tmp_path / 'images'}")
    assert dataset.classes[1:] == ("cat", "dog") and not dataset.problems
    assert dataset.annotation(0).boxes.tolist() == [[100, 120, 219, 299], [200, 300, 201, 349]]
    assert [int(mask.sum()) for mask in dataset.annotation(0).masks] == [120 * 180, 100]


def test_the_documented_source_is_a_data_set(tmp_path):
    cfg.DATA_DIR = str(tmp_path)
    for name in ("t1", "t2"):
        picture(tmp_path / "tiles" / f"{name}.png")
        np.save(tmp_path / "tiles" / f"{name}.npy", np.array([0, 1007, 2001])[instances()])
    exec(documented("python", "register("), {"np": np})
    dataset = get_imdb("tiles")
    assert dataset.num_images == 2
    check_objects(dataset.annotation(1))


def polygon_by_parity(polygon, height, width):
    """Even-odd rule at pixel centres: what filling means where no edge passes close to a centre."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), bool)
    corners = np.reshape(polygon, (-1, 2))
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0)):
        if y0 != y1:
            inside ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def test_polygons_fill_their_inside():
    for _ in range(40):
        polygon = np.random.uniform(-5, 45, 2 * np.random.randint(3, 8)).tolist()
        mask, expected = fill(polygon, 30, 40), polygon_by_parity(polygon, 30, 40)
        outline = np.zeros((30, 40), np.uint8)
        cv2.polylines(outline, [np.reshape(polygon, (-1, 1, 2)).astype(np.int32)], True, 1, 3)
        assert (mask != expected)[outline == 0].sum() == 0
    assert fill([2, 3, 9, 3, 9, 8, 2, 8], 12, 12).sum() == 35


def test_polygons_are_those_of_the_coco_tools():
    tools = pytest.importorskip("pycocotools.mask")
    for _ in range(60):
        height, width = np.random.randint(1, 50, 2).tolist()
        polygon = (np.random.uniform(-10, 60, 2 * np.random.randint(3, 9)) * 2).round().tolist()
        polygon = [value / 2 for value in polygon]
        expected = tools.decode(tools.frPyObjects([polygon], height, width))[:, :, 0]
        np.testing.assert_array_equal(fill(polygon, height, width), expected)


@pytest.mark.parametrize(
    "polygon",
    [[], [1, 2, 3, 4], [1, 2, 3, 4, 5], [0, 0, 1e300, 0, 1, 1], [0, 0, float("nan"), 0, 1, 1], [0, 0, 9e5, 0] * 9],
)
def test_polygons_that_are_none(polygon):
    with pytest.raises(CaffeError, match="polygon"):
        fill(polygon, 10, 10)


def test_packed_masks():
    masks = [np.random.uniform(size=size) < 0.5 for size in ((3, 5), (1, 1), (8, 8), (7, 3))]
    packed = PackedMasks.pack(masks)
    assert len(packed) == 4
    for mask, back, mirror in zip(masks, packed, packed.mirrored()):
        np.testing.assert_array_equal(back, mask)
        np.testing.assert_array_equal(mirror, np.fliplr(mask))
    np.testing.assert_array_equal(packed[-1], masks[3])
    chosen = packed.mirrored().where(np.array([False, True, False, True]))
    np.testing.assert_array_equal(chosen[1], np.fliplr(masks[3]))
    np.testing.assert_array_equal(packed.part(1, 3)[1], masks[2])
    assert len(packed.part(2, 2)) == len(PackedMasks.pack([])) == 0
    with pytest.raises(IndexError):
        packed[4]


def test_flipped_entries_follow_all_others_and_mirror_boxes_and_masks(tmp_path):
    dataset = get_imdb("voc_2012_seg_val", sbd(tmp_path, image_set="val"))
    entries, masks = dataset.roidb(flipped=True), dataset.maskdb(flipped=True)
    assert [entry["flipped"] for entry in entries] == [False, False, True, True]
    assert [entry["name"] for entry in entries] == ["a", "b", "a", "b"]
    for entry, of_entry in zip(entries, masks):
        numbers = instances()[:, ::-1] if entry["flipped"] else instances()
        assert (entry["width"], entry["height"]) == SIZE[::-1]
        assert of_entry["mask_max"] == [25, 23]
        for number, ((x1, y1, x2, y2), mask) in enumerate(zip(entry["boxes"], of_entry["gt_masks"]), 1):
            np.testing.assert_array_equal(mask, (numbers == number)[y1 : y2 + 1, x1 : x2 + 1])
    assert [entry["flipped"] for entry in dataset.roidb()] == [False, False]


def test_a_box_at_the_left_edge_does_not_wrap(tmp_path):
    dataset = get_imdb("voc_2007_trainval", voc(tmp_path, [("cow", (1, 1, 10, 10), 0)]))
    assert dataset.roidb(flipped=True)[1]["boxes"].tolist() == [[50, 0, 59, 9]]


def test_regression_targets_of_ground_truth(tmp_path):
    cfg.TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED = True
    entries = get_imdb("voc_2012_seg_train", sbd(tmp_path, categories=(3, 4))).roidb()
    mean, deviation = roidb.add_regression_targets(entries, 21)
    assert mean.shape == deviation.shape == (21, 4)
    assert entries[0]["bbox_targets"].tolist() == [[3, 0, 0, 0, 0], [4, 0, 0, 0, 0]]


def test_ground_truth_for_mask_ap(tmp_path):
    dataset = get_imdb("voc_2012_seg_train", sbd(tmp_path, categories=(5, 5)))
    boxes, masks = dataset.true_masks(5)
    detections = [np.concatenate([box, [[0.9], [0.8]]], 1) for box in boxes]
    found = [np.stack([cv2.resize(m.astype(np.float32), (21, 21)) >= 0.4 for m in image]) for image in masks]
    assert evaluation.mask_ap(detections, found, boxes, masks, 0.9) == pytest.approx(1)
    assert [len(image) for image in dataset.true_masks(6)[1]] == [0, 0]


def test_data_sets_are_joined(tmp_path):
    parts = [sbd(tmp_path, names, image_set=image_set) for names, image_set in (("ab", "train"), ("cde", "val"))]
    dataset = get_imdb("voc_2012_seg_train+voc_2012_seg_val", parts[0])
    assert dataset.name == "voc_2012_seg_train+voc_2012_seg_val"
    assert dataset.image_names == list("abcde") and dataset.num_images == 5
    assert [entry["name"] for entry in dataset.roidb()] == list("abcde")
    check_objects(dataset.annotation(4))
    other = coco(tmp_path / "other", [thing()])
    with pytest.raises(CaffeError, match="different classes"):
        get_imdb(f"sbd:{tmp_path}:train+{other}")


def test_the_cache_notices_what_changed(tmp_path, monkeypatch):
    root = sbd(tmp_path)
    read = []
    original = scipy.io.loadmat
    monkeypatch.setattr(scipy.io, "loadmat", lambda *a, **k: read.append(a) or original(*a, **k))

    def open_again():
        read.clear()
        check_objects(get_imdb("voc_2012_seg_train", root).annotation(0))
        return len(read)

    assert open_again() == 2 and open_again() == 0
    assert [path.name for path in (root / "cache").iterdir()] == ["voc_2012_seg_train.npz"]
    os.utime(root / "inst" / "b.mat", ns=(1, 1))
    assert open_again() == 2 and open_again() == 0
    picture(root / "img" / "a.jpg", (SIZE[0], SIZE[1]))
    assert open_again() == 2 and open_again() == 0
    (root / "train.txt").write_text("b\na\n")
    assert open_again() == 2 and open_again() == 0
    (root / "cache" / "voc_2012_seg_train.npz").write_bytes(b"PK no archive")
    assert open_again() == 2 and open_again() == 0
    numbers = instances()
    numbers[numbers == 2] = 1
    sbd(root, ("a",), numbers, categories=(1,))
    assert len(get_imdb("voc_2012_seg_train", root).annotation(0)) == 1


def test_a_cache_is_not_needed(tmp_path):
    root = sbd(tmp_path)
    (root / "cache").write_text("in the way")
    check_objects(get_imdb("voc_2012_seg_train", root).annotation(0))
    (root / "cache").unlink()
    get_imdb("voc_2012_seg_train", root, cache=False)
    assert not (root / "cache").exists()


def test_the_cache_remembers_problems(tmp_path, caplog):
    root = sbd(tmp_path, categories=(1, 99))
    for _ in range(2):
        caplog.clear()
        dataset = get_imdb("voc_2012_seg_train", root, {"unknown_class": "skip"})
        assert [problem.kind for problem in dataset.problems] == ["unknown_class"] * 2
        assert "2 skipped" in caplog.text
    with pytest.raises(CaffeError, match="unknown_class.*2 refused: a, object 2"):
        get_imdb("voc_2012_seg_train", root)


def remove_image(root):
    (root / "img" / "a.jpg").unlink()


def damage_image(root):
    (root / "img" / "a.jpg").write_bytes(b"not a picture")


def empty_image(root):
    (root / "img" / "a.jpg").write_bytes(b"")


def remove_annotation(root):
    (root / "inst" / "a.mat").unlink()


def empty_annotation(root):
    (root / "inst" / "a.mat").write_bytes(b"")


def truncate_annotation(root):
    path = root / "inst" / "a.mat"
    path.write_bytes(path.read_bytes()[:200])


def other_annotation(root):
    scipy.io.savemat(root / "inst" / "a.mat", {"GTinst": np.zeros((3, 3))})


def other_size(root):
    picture(root / "img" / "a.jpg", (SIZE[0], SIZE[1] + 1))


def instance_without_category(root):
    numbers = instances()
    numbers[0, 0] = 9
    scipy.io.savemat(root / "inst" / "a.mat", {"GTinst": {"Segmentation": numbers, "Categories": [[1], [2]]}})


@pytest.mark.parametrize(
    ("harm", "kind", "text", "left"),
    [
        (remove_image, "missing_image", "No such file", ["b"]),
        (damage_image, "missing_image", "cannot be decoded", ["b"]),
        (empty_image, "missing_image", "cannot be decoded", ["b"]),
        (remove_annotation, "bad_annotation", "No such file", ["b"]),
        (empty_annotation, "bad_annotation", "no readable structure GTinst", ["b"]),
        (truncate_annotation, "bad_annotation", "no readable structure GTinst", ["b"]),
        (other_annotation, "bad_annotation", "no readable structure GTinst", ["b"]),
        (instance_without_category, "bad_annotation", "instance 9 is beyond the 2 categories", ["b"]),
        (other_size, "mask_size", "60 x 40 pixels, the image 61 x 40", ["a", "b"]),
    ],
)
def test_damage_is_refused_or_skipped(tmp_path, caplog, harm, kind, text, left):
    root = sbd(tmp_path)
    harm(root)
    with pytest.raises(CaffeError, match=rf"{kind} .*refused.*a.*{text}.*--on {kind}=skip"):
        get_imdb("voc_2012_seg_train", root)
    dataset = get_imdb("voc_2012_seg_train", root, {kind: "skip"})
    assert dataset.image_names == left
    assert {problem.kind for problem in dataset.problems} == {kind}
    assert f"{kind} " in caplog.text and "skipped: a" in caplog.text
    assert [entry["name"] for entry in dataset.roidb()] == ["b"]
    check_objects(dataset.annotation(left.index("b")))


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "no element found"), ("<annotation><object>", "no element found"), ("<a>&x;</a>", "undefined entity")],
)
def test_damaged_xml(tmp_path, content, reason):
    root = voc(tmp_path, [("dog", (1, 1, 5, 5), 0)], ("a", "b"))
    (root / "Annotations" / "b.xml").write_text(content)
    with pytest.raises(CaffeError, match=f"bad_annotation.*1 refused: b: .*{reason}"):
        get_imdb("voc_2007_trainval", root)
    assert get_imdb("voc_2007_trainval", root, {"bad_annotation": "skip"}).image_names == ["a"]


@pytest.mark.parametrize("box", ["(0, 1, 5, 5)", "(1, 1, 61, 5)", "(1, 1, 5, 41)", "(-3, 1, 200, 5)"])
def test_a_box_outside_its_image(tmp_path, caplog, box):
    inside = ("dog", (2, 2, 9, 9), 0)
    root = voc(tmp_path, [("dog", eval(box), 0), inside])
    with pytest.raises(CaffeError, match="box_outside.*1 refused: 000001, object 1: has a box .* of 60 x 40 pixels"):
        get_imdb("voc_2007_trainval", root)
    dataset = get_imdb("voc_2007_trainval", root, {"box_outside": "skip"})
    assert dataset.annotation(0).boxes.tolist() == [[1, 1, 8, 8]]
    clipped = get_imdb("voc_2007_trainval", root, {"box_outside": "clip"}).annotation(0).boxes
    assert len(clipped) == 2 and (clipped >= 0).all() and (clipped < [60, 40, 60, 40]).all()
    assert "1 clipped" in caplog.text


def test_objects_of_no_known_class_or_without_a_pixel(tmp_path):
    root = voc(tmp_path, [("cat", (1, 1, 5, 5), 0), ("unicorn", (1, 1, 5, 5), 0), ("cat", (9, 9, 8, 8), 0)])
    with pytest.raises(CaffeError, match="unknown_class.*object 2: is of class 'unicorn'"):
        get_imdb("voc_2007_trainval", root)
    dataset = get_imdb("voc_2007_trainval", root, {"unknown_class": "skip"})
    assert len(dataset.annotation(0)) == 1
    assert [problem.kind for problem in dataset.problems] == ["unknown_class", "empty_object"]


def test_images_without_objects_stay_for_evaluation_only(tmp_path, caplog):
    root = voc(tmp_path, [("cat", (1, 1, 5, 5), 0)], ("a", "b", "c"))
    (root / "Annotations" / "b.xml").write_text("<annotation></annotation>")
    text(root / "Annotations" / "c.xml", f"<a>{VOC_OBJECT.format(name='cat', box=(1, 1, 5, 5), difficult=1)}</a>")
    dataset = get_imdb("voc_2007_trainval", root)
    assert dataset.num_images == 3 and len(dataset.true_boxes(8)[0]) == 3
    assert [entry["name"] for entry in dataset.roidb(flipped=True)] == ["a", "a"]
    assert "no_object" in caplog.text and "2 skipped: b" in caplog.text
    with pytest.raises(CaffeError, match="no_object.*2 refused: b"):
        get_imdb("voc_2007_trainval", root, {"no_object": "refuse"}).roidb()
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("b\n")
    with pytest.raises(CaffeError, match="none of its 1 images has an object"):
        get_imdb("voc_2007_trainval", root).roidb()


@pytest.mark.parametrize(
    ("changes", "kind", "reason"),
    [
        ({"category_id": 1}, "unknown_class", "id 1"),
        ({"segmentation": None}, "bad_annotation", "has no mask"),
        ({"segmentation": [[1, 2]]}, "bad_annotation", "three corners"),
        ({"segmentation": [["x"] * 6]}, "bad_annotation", "annotation 5"),
        ({"segmentation": 5}, "bad_annotation", "annotation 5"),
        ({"segmentation": {"size": [40, 60], "counts": [5]}}, "bad_annotation", "add up to 5"),
        ({"segmentation": {"size": [40, 61], "counts": [2440]}}, "mask_size", "61 x 40 pixels, the image 60 x 40"),
        ({"segmentation": {"size": [10**9, 10**9], "counts": [10**18]}}, "mask_size", "1000000000 x 1000000000"),
        ({"segmentation": {"size": [-1, 60], "counts": []}}, "bad_annotation", "annotation 5"),
        ({"segmentation": [[-9, -9, -5, -9, -5, -5]]}, "empty_object", "without a pixel"),
        ({"bbox": [1, 2, 3]}, "bad_annotation", "not x, y, width, height"),
        ({"bbox": [0, 0, 1e30, 5]}, "bad_annotation", "has a box"),
        ({"bbox": [50, 30, 20, 20]}, "box_outside", "in an image of 60 x 40"),
    ],
)
def test_coco_objects_that_are_wrong(tmp_path, changes, kind, reason):
    name = coco(tmp_path, [thing(**changes)])
    with pytest.raises(CaffeError, match=f"{kind} .*refused.*{reason}"):
        get_imdb(name, policy={kind: "refuse"})
    if kind != "bad_annotation" or "mask" in reason:
        dataset = get_imdb(name, policy={kind: "skip"})
        assert len(dataset.annotation(0)) == 0 and {problem.kind for problem in dataset.problems} == {kind}


def test_a_coco_image_of_another_size_than_the_file_says(tmp_path):
    name = coco(tmp_path, [thing()], [{"id": 1, "file_name": "one.png", "width": 61, "height": 40}])
    with pytest.raises(CaffeError, match="mask_size.*has 60 x 40 pixels, .* says 61 x 40"):
        get_imdb(name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not readable as JSON"),
        ("[" * 100_000, "not readable as JSON"),
        ("[]", "not an object"),
        ('{"images": []}', "'categories' is no list"),
        ('{"categories": [{"id": 1}]}', "'name' is None"),
        ('{"categories": [{"id": 1, "name": "a"}], "images": 3}', "'images' is no list"),
        ('{"categories": [{"id": 1, "name": "a"}], "images": [{"id": 1}, {"id": 1}]}', "same id"),
        ('{"categories": [{"id": 1, "name": "a"}], "images": [{"id": 1}]}', "'file_name' is None"),
        ('{"categories": [{"id": 1, "name": "a"}], "images": [], "annotations": [{"image_id": 4}]}', "image 4"),
        ('{"categories": [{"id": 1, "name": "a"}], "images": []}', "none of its 0 images"),
    ],
)
def test_json_that_is_no_data_set(tmp_path, content, reason):
    text(tmp_path / "instances.json", content)
    with pytest.raises(CaffeError, match=reason):
        get_imdb(f"coco:{tmp_path / 'instances.json'}:{tmp_path}")


def test_masks_of_a_folder_that_are_wrong(tmp_path):
    text(tmp_path / "classes.txt", "cup\n")
    text(tmp_path / "val.txt", "a\nb\n")
    for name in "ab":
        picture(tmp_path / "images" / f"{name}.png")
    picture(tmp_path / "masks" / "a" / "cup_1.png", (9, 9))
    picture(tmp_path / "masks" / "a" / "mug_1.png")
    with pytest.raises(CaffeError) as error:
        get_imdb(f"masks:{tmp_path}:val")
    assert "mask_size" in str(error.value) and "'mug'" in str(error.value)
    assert "bad_annotation" in str(error.value) and os.path.join("masks", "b") in str(error.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("voc_2012_seg_trian", "did you mean voc_2012_seg_train?"),
        ("x", "there are coco_2014"),
        ("voc_2007_test", "there is no folder"),
        ("coco:only", "own data are named"),
        ("zip:a:b", "own data are named"),
        ("sbd:nowhere:train", "image list .*: No such file"),
    ],
)
def test_names_that_lead_nowhere(tmp_path, name, reason):
    cfg.DATA_DIR = str(tmp_path)
    with pytest.raises(CaffeError, match=reason):
        get_imdb(name)
    assert {"voc_2007_trainval", "voc_2012_seg_val", "coco_2014_minival", "shapes_train"} <= set(list_imdbs())


@pytest.mark.parametrize(("content", "reason"), [("", "empty"), ("a\nb\na\n", "a appears twice")])
def test_lists_that_are_none(tmp_path, content, reason):
    text(tmp_path / "train.txt", content)
    with pytest.raises(CaffeError, match=reason):
        get_imdb(f"sbd:{tmp_path}:train")


@pytest.mark.parametrize(
    ("changes", "reason"), [({"typo": "skip"}, "no problem"), ({"mask_size": "clip"}, "or refuse")]
)
def test_policies_that_are_none(changes, reason):
    with pytest.raises(CaffeError, match=reason):
        problems.policy(changes)


def test_summaries_name_a_few_and_count_all(caplog):
    caplog.set_level(logging.WARNING)
    found = [problems.Problem("missing_image", f"image {i}") for i in range(8)]
    problems.settle("set", found, {"missing_image": "skip"})
    assert "8 skipped: image 0; image 1; image 2; image 3; image 4; and 3 more" in caplog.text
