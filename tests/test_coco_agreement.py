"""Our average precision beside pycocotools', on one set that is scored both ways, and COCO's numbers in result files.

The two are comparable where their rules coincide:

- Ours is the area under the monotone curve (not the 11 points of VOC 2007). COCO averages the same curve's precision
  over 101 recalls; in the middles of the curve's steps, 1 / (instances of the class) wide, that average is the area.
- A detection that overlaps an instance which was found before is false for VOC; COCO may give it another one. No
  detection here overlaps two instances enough.
- Crowds and difficult objects, which the two treat differently, are left out.
- Coordinates have one decimal and scores three, as in VOC's files; no two scores are equal.
"""

from __future__ import annotations

import contextlib
import io
import json

import cv2
import numpy as np
import pytest

from caffe_bridge import evaluation, result_files, rle
from caffe_bridge.boxes import overlaps
from caffe_bridge.datasets import get_imdb
from caffe_bridge.found import Found
from caffe_bridge.inference import paste_mask
from caffe_bridge.testing import evaluate

pytest.importorskip("pycocotools")
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

HEIGHT, WIDTH, CELL = 144, 192, 48
CATEGORIES = {1: 17, 2: 3, 3: 90}  # class number: COCO's
IDS = [40, 7, 981, 12, 100, 101, 5, 60]
THRESHOLDS = (0.5, 0.7)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A data set in COCO's format, its file, and what some net might have found in it."""
    folder = tmp_path_factory.mktemp("coco")
    random = np.random.RandomState(4)
    scores = iter(random.permutation(np.arange(1, 1000)) / 1000)
    annotations, found = [], []
    for number in IDS:
        cv2.imwrite(str(folder / f"{number}.png"), random.randint(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
        rows = []
        for corner in np.ndindex(HEIGHT // CELL, WIDTH // CELL):
            y, x = (CELL * place + random.randint(0, 6) for place in corner)
            height, width = random.randint(20, 40, 2)
            label = int(random.randint(1, 4))
            if random.rand() < 0.8:
                mask = np.zeros((HEIGHT, WIDTH), np.uint8)
                axes = int(width // 2), int(height // 2)
                cv2.ellipse(mask, (int(x + axes[0]), int(y + axes[1])), axes, 0, 0, 360, 1, -1)
                ys, xs = np.nonzero(mask)
                box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
                annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": CATEGORIES[label],
                                    "bbox": box, "area": int(mask.sum()), "iscrowd": 0,
                                    "segmentation": rle.encode(mask > 0)})  # fmt: skip
            for _ in range(random.choice([0, 1, 1, 1, 2])):
                shift = random.choice([0.5, 1, 3]) * random.randn(4)
                corners = np.round(np.array([x, y, x + width, y + height]) + shift, 1)
                corners = np.clip(corners, 0, [WIDTH - 1, HEIGHT - 1] * 2)
                side = np.linspace(-1.1, 1.1, 21)
                mask = side[:, None] ** 2 + side**2 < 1 + 0.15 * random.randn()
                if mask.sum() > 40:
                    classes = label if random.rand() < 0.85 else int(random.randint(1, 4))
                    rows.append((*corners, next(scores), classes, mask))
        boxes = np.array([row[:5] for row in rows])
        classes = np.array([row[5] for row in rows], np.int64)
        found.append(Found(boxes, classes, np.array([row[6] for row in rows]), np.empty(0), np.empty(0, np.int64)))
    images = [{"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH} for number in IDS]
    categories = [{"id": key, "name": f"kind {label}"} for label, key in CATEGORIES.items()]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return get_imdb(f"coco:{path}:{folder}", cache=False), path, found


def judged(path, entries, kind, category, recalls=None):
    """pycocotools' precision [thresholds, recalls] of one category."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        judge = COCOeval(truth, truth.loadRes(entries), kind)
        judge.params.catIds = [category]
        judge.params.iouThrs = np.array(THRESHOLDS)
        if recalls is not None:
            judge.params.recThrs = recalls
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][:, :, 0, 0, -1]


def our_curves(imdb, found, kind, label):
    of_class = [image.where(image.classes == label) for image in found]
    rows = [image.boxes for image in of_class]
    if kind == "segm":
        return evaluation.mask_curves(rows, [image.masks for image in of_class], *imdb.true_masks(label), THRESHOLDS)
    return [evaluation.box_curve(rows, *imdb.true_boxes(label), threshold) for threshold in THRESHOLDS]


def test_the_set_is_one_where_the_rules_coincide(scored):
    imdb, _, found = scored
    scores = np.concatenate([image.boxes[:, 4] for image in found])
    assert len(set(scores)) == len(scores) > 70
    for i, image in enumerate(found):
        truth = imdb.annotation(i)
        overlap = np.concatenate(
            [
                overlaps(image.boxes[:, :4], truth.boxes.astype(np.float64)),
                evaluation.mask_overlaps(image.boxes, image.masks, truth.boxes, truth.masks),
            ]
        )
        assert ((overlap >= 0.5).sum(1) <= 1).all() and len(image) <= 100
        assert all(np.abs(overlap - threshold).min() > 1e-9 for threshold in THRESHOLDS)


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("label", CATEGORIES)
def test_average_precision_is_that_of_pycocotools(scored, kind, label):
    imdb, path, found = scored
    entries = result_files.coco_results(imdb, found)
    curves = our_curves(imdb, found, kind, label)
    steps = (np.arange(curves[0].instances) + 0.5) / curves[0].instances
    theirs = judged(path, entries, kind, CATEGORIES[label], steps).mean(1)
    ours = [evaluation.voc_ap(curve.recall, curve.precision) for curve in curves]
    assert 0.1 < min(ours) < max(ours) < 0.95
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    # COCO's own 101 recalls miss the area by up to the first of them, and by a step's share of one.
    np.testing.assert_allclose(ours, judged(path, entries, kind, CATEGORIES[label]).mean(1), atol=0.02)


def test_boxes_are_scored_so_by_test_net(scored):
    imdb, path, found = scored
    entries = result_files.coco_results(imdb, found)
    report = evaluate(imdb, found, "det")
    for label, curve in enumerate(report.boxes, 1):
        steps = (np.arange(curve.instances) + 0.5) / curve.instances
        assert curve.ap == pytest.approx(judged(path, entries, "bbox", CATEGORIES[label], steps)[0].mean(), rel=1e-9)


def test_results_carry_cocos_numbers(scored):
    imdb, path, found = scored
    assert imdb.category_ids == [17, 3, 90] and imdb.image_ids == IDS and imdb.coco_file == str(path)
    entries = result_files.coco_results(imdb, found)
    for number, image in zip(IDS, found):
        own = [entry for entry in entries if entry["image_id"] == number]
        assert [entry["category_id"] for entry in own] == [CATEGORIES[label] for label in image.classes.tolist()]
        mask = paste_mask(image.masks[0], image.boxes[0], (HEIGHT, WIDTH))
        assert np.array_equal(rle.decode(own[0]["segmentation"]), mask)
    truth = result_files.coco_truth(imdb)
    assert [category["id"] for category in truth["categories"]] == [17, 3, 90]
    assert {thing["category_id"] for thing in truth["annotations"]} == {17, 3, 90}
    assert [image["id"] for image in truth["images"]] == IDS


def test_figures_are_those_of_the_original_file(scored, tmp_path):
    """Which says what is a crowd, and how large objects are; data sets may be without what it has not to have."""
    imdb, path, found = scored
    entries = result_files.coco_results(imdb, found)
    content = json.loads(path.read_text())
    figures = result_files.coco_figures(imdb, entries, "segm")
    assert figures["APm"] > 0
    for thing in content["annotations"]:
        thing["area"] = 10
    path.write_text(json.dumps(content))
    assert result_files.coco_figures(imdb, entries, "segm")["APm"] == -1
    del content["annotations"][0]["area"]
    path.write_text(json.dumps(content))
    assert result_files.coco_figures(imdb, entries, "segm") == figures


def test_joined_sets_keep_numbers_that_differ(scored, tmp_path):
    imdb, path, _ = scored
    content = json.loads(path.read_text())
    halves = []
    for name, kept in (("first", IDS[:3]), ("second", IDS[3:])):
        part = {**content, "images": [image for image in content["images"] if image["id"] in kept]}
        part["annotations"] = [thing for thing in content["annotations"] if thing["image_id"] in kept]
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
        halves.append(f"coco:{tmp_path / name}.json:{path.parent}")
    both = get_imdb("+".join(halves), cache=False)
    assert both.image_ids == IDS and both.category_ids == [17, 3, 90] and both.coco_file is None
    twice = get_imdb("+".join(halves[:1] * 2), cache=False)
    assert twice.image_ids == [1, 2, 3, 4, 5, 6]


def test_other_data_are_numbered_as_before(tmp_path):
    from caffe_bridge.datasets import shapes

    shapes.make(str(tmp_path), 2, 1, (40, 48))
    imdb = get_imdb("shapes_train", tmp_path, cache=False)
    assert imdb.category_ids == [1, 2, 3, 4] and imdb.coco_file is None
    assert imdb.image_ids == [1, 2]
