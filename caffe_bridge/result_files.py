"""Results of a test as files that others read: JSON in COCO's format, VOC's text files, curves and pictures."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from caffe_bridge import evaluation, rle
from caffe_bridge.boxes import overlaps
from caffe_bridge.drawing import draw_instances, palette
from caffe_bridge.errors import CaffeError
from caffe_bridge.found import Found
from caffe_bridge.images import read_image
from caffe_bridge.inference import Instances, paste_mask
from caffe_bridge.plots import contact_sheet, plot_precision
from caffe_bridge.testing import BOX_OVERLAP, SHOWN_OVERLAPS, Report

if TYPE_CHECKING:
    from caffe_bridge.datasets import Dataset

SURE = 0.5  # instances of at least this score are drawn, and judged where an image gets a mark
ON_PAGE = 8  # images on each half of the page
_TRUTH_SIZE = 112  # pixels of the masks that ground truth is drawn from

COCO_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def coco_results(imdb: Dataset, found: Sequence[Found]) -> list[dict[str, Any]]:
    """What was found as COCO's result entries.

    `image_id` and `category_id` are those of the data set, `bbox` is (x, y, width, height) in image pixels;
    `segmentation`, compressed run lengths, is there where masks were found.
    """
    entries = []
    for i, (number, image) in enumerate(zip(imdb.image_ids, found)):
        size = imdb.image_size(i)
        for k, (x1, y1, x2, y2, score) in enumerate(image.boxes.tolist()):
            entry: dict[str, Any] = {
                "image_id": number,
                "category_id": imdb.category_ids[image.classes[k] - 1],
                "bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1],
                "score": score,
            }
            if image.masks.shape[-1]:
                entry["segmentation"] = rle.encode(paste_mask(image.masks[k], image.boxes[k], size))
            entries.append(entry)
    return entries


def coco_truth(imdb: Dataset) -> dict[str, Any]:
    """A data set's objects in COCO's format, with the numbers `coco_results` uses; difficult ones are crowds."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, number in enumerate(imdb.image_ids):
        height, width = imdb.image_size(i)
        file_name = os.path.basename(imdb.image_paths[i])
        images.append({"id": number, "file_name": file_name, "height": height, "width": width})
        truth = imdb.annotation(i)
        for k, (x1, y1, x2, y2) in enumerate(truth.boxes.tolist()):
            area = (x2 - x1 + 1) * (y2 - y1 + 1)
            entry: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": imdb.category_ids[truth.classes[k] - 1],
            }
            entry |= {"bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1], "area": area, "iscrowd": int(truth.difficult[k])}
            if truth.masks is not None:
                mask = np.zeros((height, width), bool)
                mask[y1 : y2 + 1, x1 : x2 + 1] = truth.masks[k]
                entry |= {"segmentation": rle.encode(mask), "area": int(mask.sum())}
            annotations.append(entry)
    categories = [{"id": key, "name": name} for key, name in zip(imdb.category_ids, imdb.classes[1:])]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco_figures(imdb: Dataset, results: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """COCO's twelve figures for results of `coco_results`, by pycocotools; `kind` is "segm" or "bbox".

    They are compared with the data set's own file where that says all that COCO's do, otherwise with `coco_truth`.

    Raises:
        CaffeError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise CaffeError("COCO's figures need pycocotools: pip install 'caffe-bridge[coco]'") from error
    if not results:
        return dict.fromkeys(COCO_NAMES, 0.0)
    with contextlib.redirect_stdout(sys.stderr):
        truth = COCO()
        truth.dataset = _own_truth(imdb) or coco_truth(imdb)
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(results), kind)
        judged.params.imgIds = sorted(imdb.image_ids)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return dict(zip(COCO_NAMES, judged.stats.tolist()))


def _own_truth(imdb: Dataset) -> dict[str, Any] | None:
    if imdb.coco_file is None:
        return None
    content: dict[str, Any] = json.loads(Path(imdb.coco_file).read_text(encoding="utf-8"))
    wanted = {"id", "bbox", "area", "iscrowd", "segmentation"}
    return content if all(wanted <= thing.keys() for thing in content.get("annotations", ())) else None


def write_voc(folder: Path, imdb: Dataset, found: Sequence[Found]) -> None:
    """A text file for each class, with the boxes in VOC's format: image, score, corners counted from 1."""
    part = imdb.name.rpartition("_")[2]
    for c, name in enumerate(imdb.classes):
        if c == 0:
            continue
        lines = []
        for image_name, image in zip(imdb.image_names, found):
            for row in image.boxes[image.classes == c].tolist():
                corners = " ".join(f"{value + 1:.1f}" for value in row[:4])
                lines.append(f"{image_name} {row[4]:.3f} {corners}\n")
        (folder / f"comp4_det_{_safe(part)[-100:]}_{_safe(name)[-100:]}.txt").write_text(
            "".join(lines), encoding="utf-8"
        )


def write_report(folder: Path, report: Report) -> None:
    """`results.json`: the means, and every class's average precisions; `precision.png`: the curves."""
    classes: dict[str, dict[str, float]] = {name: {} for name in report.classes}
    for overlap, curves in report.masks.items():
        for name, curve in zip(report.classes, curves):
            classes[name][f"AP^r@{overlap}"] = curve.ap
    for name, curve in zip(report.classes, report.boxes):
        classes[name] |= {f"AP^b@{BOX_OVERLAP}": curve.ap, "instances": curve.instances}
    content = {"mean": report.figures(), "classes": classes, "coco": report.coco}
    (folder / "results.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    titles = {f"masks, overlap {overlap}": report.masks[overlap] for overlap in SHOWN_OVERLAPS if report.masks}
    titles[f"boxes, overlap {BOX_OVERLAP}"] = report.boxes
    curves_of = {title: dict(zip(report.classes, curves)) for title, curves in titles.items()}
    plot_precision(folder / "precision.png", curves_of)


# -- pictures ------------------------------------------------------------------------------------------------


def mark(imdb: Dataset, image: int, found: Found) -> float:
    """How well one image is done, from 0 to 1: the overlaps of pairs of equal class that overlap by more than half,
    over the mean number of instances found (of at least SURE) and there (panoptic quality).
    """
    truth = imdb.annotation(image)
    truth = truth.where(~truth.difficult)
    found = found.where(found.boxes[:, 4] >= SURE)
    if not len(truth) and not len(found):
        return 1.0
    total = 0.0
    for c in np.unique(truth.classes):
        theirs, ours = truth.where(truth.classes == c), found.where(found.classes == c)
        if theirs.masks is not None and ours.masks.shape[-1]:
            overlap = evaluation.mask_overlaps(ours.boxes, ours.masks, theirs.boxes, theirs.masks)
        else:
            overlap = overlaps(ours.boxes[:, :4].astype(np.float64), theirs.boxes.astype(np.float64))
        for row in np.argsort(-ours.boxes[:, 4], kind="stable"):
            best = int(overlap[row].argmax())
            if overlap[row, best] > 0.5:
                total += overlap[row, best]
                overlap[:, best] = 0
    return total / (0.5 * (len(truth) + len(found)))


def write_page(path: Path, imdb: Dataset, found: Sequence[Found]) -> None:
    """The best and the worst images by `mark`, best first: what is there on the left, what was found on the right."""
    marks = np.array([mark(imdb, i, image) for i, image in enumerate(found)])
    order = np.argsort(-marks, kind="stable")
    half = min(ON_PAGE, (len(order) + 1) // 2)
    rows = [*order[:half], *order[max(half, len(order) - ON_PAGE) :]]
    pictures = []
    for i in rows:
        image = read_image(imdb.image_paths[i])
        both = draw_instances(image, _true_instances(imdb, i), imdb.classes[1:]), draw(image, found[i], imdb.classes)
        pictures.append((f"{imdb.image_names[i]}: {marks[i]:.2f}", np.concatenate(both, axis=1)))
    cv2.imwrite(str(path), contact_sheet(pictures, columns=2, width=640))


def write_pictures(folder: Path, imdb: Dataset, found: Sequence[Found]) -> None:
    """Every image as MNC's vis_seg draws it: SegInst, instances by colour; SegCls, classes; SegRes, over the image."""
    folders = [folder / name for name in ("SegInst", "SegCls", "SegRes")]
    for each in folders:
        each.mkdir(parents=True, exist_ok=True)
    for i, image_found in enumerate(found):
        image = read_image(imdb.image_paths[i])
        sure = image_found.where(image_found.boxes[:, 4] >= SURE)
        numbers = np.zeros((2, *image.shape[:2]), np.int64)
        for k in range(len(sure)):
            pasted = paste_mask(sure.masks[k], sure.boxes[k], image.shape[:2])
            numbers[0, pasted], numbers[1, pasted] = k + 1, sure.classes[k]
        colours = palette(int(numbers.max()) + 1)[:, ::-1]
        name = f"{_safe(imdb.image_names[i])}.png"
        for each, picture in zip(folders, [*colours[numbers], draw(image, sure, imdb.classes)]):
            cv2.imwrite(str(each / name), picture)


def write_drawings(folder: Path, imdb: Dataset, found: Sequence[Found]) -> None:
    """Every image with what was found in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, name, image_found in zip(imdb.image_paths, imdb.image_names, found):
        cv2.imwrite(str(folder / f"{_safe(name)}.png"), draw(read_image(path), image_found, imdb.classes))


def draw(image: np.ndarray, found: Found, classes: Sequence[str]) -> np.ndarray:
    """The image with the instances of at least SURE; `classes` starts with the background."""
    sure = found.where(found.boxes[:, 4] >= SURE)
    masks = sure.masks if sure.masks.shape[-1] else np.zeros((len(sure), 2, 2), bool)
    instances = Instances(
        torch.from_numpy(sure.boxes[:, :4]),
        torch.from_numpy(sure.classes),
        torch.from_numpy(sure.boxes[:, 4]),
        torch.from_numpy(masks.astype(np.float32)),
    )
    return draw_instances(image, instances, classes[1:])


def _true_instances(imdb: Dataset, image: int) -> Instances:
    truth = imdb.annotation(image)
    masks = np.zeros((len(truth), _TRUTH_SIZE, _TRUTH_SIZE), np.float32)
    for place, mask in zip(masks, truth.masks or ()):
        place[:] = cv2.resize(mask.astype(np.float32), place.shape)
    boxes, classes = torch.from_numpy(truth.boxes.astype(np.float32)), torch.from_numpy(truth.classes.astype(np.int64))
    return Instances(boxes, classes, torch.ones(len(truth)), torch.from_numpy(masks))


def _safe(name: str) -> str:
    """A name as part of a file's name."""
    return "".join(character if character.isalnum() or character in "-._" else "_" for character in name)
