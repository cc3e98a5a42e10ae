"""Testing detection and segmentation nets on a data set, by the protocols of MNC's and py-faster-rcnn's test programs.

    look = looker(net, imdb, "seg")
    found = limit_scores(look_at_all(look, imdb, store))     every image once; may be interrupted
    report = evaluate(imdb, found, "seg")

MNC: at most 100 instances an image: of mask voting's, the best over all classes; without it, and of boxes, of each
class before suppression, and 40 times as many as there are images in the whole set. py-faster-rcnn: boxes that score
above 0.05, the best 100 of an image over all classes after suppression.
Source: MNC, lib/caffeWrapper/TesterWrapper.py, lib/datasets/pascal_voc_det.py and pascal_voc_seg.py; py-faster-rcnn,
lib/fast_rcnn/test.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from caffe_bridge import boxes as box_arithmetic
from caffe_bridge import cfm_testing, detection, evaluation, inference, mask_proposals
from caffe_bridge.config import cfg
from caffe_bridge.distributed import Workers
from caffe_bridge.errors import CaffeError
from caffe_bridge.evaluation import Curve
from caffe_bridge.found import Found, FoundStore
from caffe_bridge.images import read_image
from caffe_bridge.layers import functional
from caffe_bridge.mask_proposals import MaskProposals
from caffe_bridge.net import Net

if TYPE_CHECKING:
    from caffe_bridge.datasets import Dataset

TASKS = ("seg", "det", "cfm")
DETECTOR_BLOBS = ["rois", "bbox_pred", "cls_prob"]
PER_IMAGE = 100
PER_SET = 40  # times the number of images, for each class
MASK_OVERLAPS = tuple(i / 10 for i in range(1, 10))
SHOWN_OVERLAPS = (0.5, 0.7)
BOX_OVERLAP = 0.5

Look = Callable[[int, np.ndarray], Found]


def looker(
    net: Net,
    imdb: Dataset,
    task: str,
    rules: str = "mnc",
    proposals: MaskProposals | Sequence[np.ndarray] | None = None,
    per_image: int = PER_IMAGE,
) -> Look:
    """What is done with each image: a function of its number and the image that returns what the net finds in it.

    Args:
        net: an MNC test net for "seg"; a CFM one for "cfm"; for "det" one with the blobs rois, bbox_pred and cls_prob.
        task: "seg" for masks by stages three and five, "det" for boxes by the first, "cfm" for masks of proposals.
        rules: whose test program "det" follows, "mnc" or "py_faster_rcnn".
        proposals: those that "cfm" looks at; boxes, image by image, for Fast R-CNN.
        per_image: the most boxes an image may have by py-faster-rcnn's rules; 0 for all.

    Raises:
        CaffeError: the net is of another kind, or there are no proposals for a net that looks at them. The function
            raises it when the net has more classes than the data set.
    """
    files, boxes = (proposals, None) if isinstance(proposals, MaskProposals) else (None, proposals)
    if task == "cfm" and files is None:
        raise CaffeError("CFM looks at proposals, and there are none")
    if task == "det":
        _check_detector(net)
        if "rois" in net.inputs and boxes is None:
            raise CaffeError(f"{net.name or 'the net'} looks at proposals, and there are none")

    def look(i: int, image: np.ndarray) -> Found:
        if task == "cfm" and files is not None:
            found = judge_proposals(net, image, files.proposals_at(i))
        elif task == "seg":
            found = segment(net, image)
        elif rules == "py_faster_rcnn":
            found = detect_in(net, image, None if boxes is None else boxes[i], per_image)
        else:
            found = detect_boxes(net, image)
        seen = max([0, *found.score_classes.tolist(), *found.classes.tolist()])
        if seen >= imdb.num_classes:
            raise CaffeError(f"the net has a class {seen}, {imdb.name} has {imdb.num_classes} with the background")
        return found

    return look


def look_at_all(
    look: Look, imdb: Dataset, store: FoundStore, workers: Workers | None = None, afresh: bool = False
) -> list[Found]:
    """Look at every image that the store does not have, and keep what is found.

    Processes that share the work each take their part; the first one returns everything, the others nothing.

    Raises:
        CaffeError: what `look` raises, or results cannot be kept.
    """
    me = workers or Workers()
    if me.first:
        store.open(afresh)
    me.wait()
    for i in tqdm(range(me.rank, imdb.num_images, me.count), unit="image", disable=None if me.first else True):
        if i not in store:
            store.save(i, look(i, read_image(imdb.image_paths[i])))
    me.wait()
    found = []
    for i in range(imdb.num_images) if me.first else ():
        one = store.load(i)
        if one is None:  # damaged
            store.save(i, look(i, read_image(imdb.image_paths[i])))
            one = store.load(i)
        if one is None:
            raise CaffeError(f"{store.folder}: the results of image {i} cannot be kept there")
        found.append(one)
    return found


def segment(net: Net, image: np.ndarray) -> Found:
    """The instances in an image [H, W, 3] (blue, green, red) by masks, with or without mask voting (cfg.TEST)."""
    if cfg.TEST.USE_MASK_MERGE:
        instances = inference.detect(net, image, PER_IMAGE).cpu()
        boxes = torch.cat([instances.boxes, instances.scores[:, None]], dim=1)
        nothing = np.empty(0, np.float32)
        return _found(boxes, instances.classes, instances.masks, nothing, nothing.astype(np.int64))
    return _suppressed(*inference.forward_stages(net, image))


def judge_proposals(net: Net, image: np.ndarray, proposals: mask_proposals.Proposals) -> Found:
    """The instances among the mask proposals of an image [H, W, 3] (blue, green, red), by a CFM net."""
    return _suppressed(*cfm_testing.forward_proposals(net, image, proposals))


def _suppressed(boxes: torch.Tensor, masks: torch.Tensor, scores: torch.Tensor) -> Found:
    box_lists, mask_lists = inference.suppress(boxes, masks, scores, PER_IMAGE)
    classes = torch.cat([torch.full((len(rows),), c) for c, rows in enumerate(box_lists, 1)])
    best, best_classes = _candidates(scores)
    return _found(torch.cat(box_lists), classes, torch.cat(mask_lists)[:, 0], best, best_classes)


def _check_detector(net: Net) -> None:
    missing = [name for name in DETECTOR_BLOBS if name not in net.graph.shapes]
    if missing:
        needed = ", ".join(DETECTOR_BLOBS)
        raise CaffeError(f"detection needs the blobs {needed}; {net.name or 'the net'} has no {missing[0]}")


def detect_in(net: Net, image: np.ndarray, proposals: np.ndarray | None = None, per_image: int = PER_IMAGE) -> Found:
    """The objects in an image [H, W, 3] (blue, green, red) by boxes, by py-faster-rcnn's rules.

    `proposals` are boxes [n, 4] in image pixels for Fast R-CNN; None where the net proposes.
    """
    rows = detection.best_detections(*detection.detect(net, image, proposals), per_image)
    classes = torch.cat([torch.full((len(of_class),), c) for c, of_class in enumerate(rows, 1)])
    boxes, nothing = torch.cat(rows), np.empty(0, np.float32)
    return _found(boxes, classes, boxes.new_zeros((len(boxes), 0, 0)), nothing, nothing.astype(np.int64))


@torch.no_grad()
def detect_boxes(net: Net, image: np.ndarray) -> Found:
    """The objects in an image [H, W, 3] (blue, green, red) by boxes, by MNC's rules."""
    _check_detector(net)
    data, im_info = inference.prepare_image(image)
    blobs = net(data=data, im_info=im_info, blobs=DETECTOR_BLOBS)
    rois, deltas, scores = (blobs[name] for name in DETECTOR_BLOBS)
    rois = rois[:, 1:5] / im_info[0, 2].to(rois.device, rois.dtype)
    boxes = box_arithmetic.clamp(box_arithmetic.decode(rois, deltas), image.shape[:2])
    rows: list[torch.Tensor] = []
    classes: list[torch.Tensor] = []
    for c in range(1, scores.shape[1]):
        top = scores[:, c].argsort(descending=True, stable=True)[:PER_IMAGE]
        of_class, score = boxes[top, 4 * c : 4 * c + 4], scores[top, c]
        keep = functional.nms(of_class, score, cfg.TEST.NMS, inclusive=not cfg.USE_GPU_NMS)
        rows.append(torch.cat([of_class[keep], score[keep, None]], dim=1))
        classes.append(torch.full((len(keep),), c))
    best, best_classes = _candidates(scores)
    found = torch.cat(rows)
    return _found(found, torch.cat(classes), found.new_zeros((len(found), 0, 0)), best, best_classes)


def _candidates(scores: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The best PER_IMAGE scores of every class but the background, and their classes."""
    best = scores[:, 1:].topk(min(PER_IMAGE, len(scores)), dim=0).values
    classes = torch.arange(1, scores.shape[1]).expand(best.shape)
    return best.flatten().float().cpu().numpy(), classes.flatten().numpy()


def _found(boxes: torch.Tensor, classes: torch.Tensor, masks: torch.Tensor, scores: Any, score_classes: Any) -> Found:
    return Found(
        boxes.float().cpu().numpy(),
        classes.cpu().numpy().astype(np.int64),
        (masks >= cfg.BINARIZE_THRESH).cpu().numpy(),
        scores,
        score_classes,
    )


def limit_scores(found: Sequence[Found]) -> list[Found]:
    """Of all images' instances, without the ones whose class had better candidates in plenty.

    Where a class has more than PER_SET candidates an image, only instances that score above the last of the PER_SET
    best stay. The original keeps this threshold as it goes; the outcome does not depend on the order of images.
    """
    scores = np.concatenate([np.empty(0, np.float32), *(image.scores for image in found)])
    classes = np.concatenate([np.empty(0, np.int64), *(image.score_classes for image in found)])
    limits = np.full(1 + max([0, *classes.tolist()]), -np.inf)
    most = PER_SET * len(found)
    for c in np.unique(classes):
        of_class = scores[classes == c]
        if len(of_class) > most:
            limits[c] = np.partition(of_class, -most)[-most]
    if np.isneginf(limits).all():
        return list(found)
    return [image.where(image.boxes[:, 4] > limits[image.classes]) for image in found]


@dataclass
class Report:
    """How good the instances are.

    Attributes:
        classes: names of classes 1, 2, ...
        masks: overlap threshold to the curve of each class; empty for boxes only.
        boxes: the curve of each class at an overlap of 0.5.
        coco: what pycocotools says, where it was asked: "segm" or "bbox" to its twelve numbers by name.
    """

    classes: list[str]
    masks: dict[float, list[Curve]]
    boxes: list[Curve]
    coco: dict[str, dict[str, float]] = field(default_factory=dict)

    def mean(self, overlap: float) -> float:
        """mAP^r: the mean over classes of the average precision of masks."""
        return float(np.mean([curve.ap for curve in self.masks[overlap]]))

    @property
    def mean_all(self) -> float:
        """mAP^r averaged over the overlaps 0.1 to 0.9."""
        return float(np.mean([self.mean(overlap) for overlap in self.masks]))

    @property
    def mean_boxes(self) -> float:
        """mAP^b: the mean over classes of the average precision of boxes."""
        return float(np.mean([curve.ap for curve in self.boxes]))

    def figures(self) -> dict[str, float]:
        """The means by the names that papers use, as fractions."""
        figures = {f"mAP^r@{overlap}": self.mean(overlap) for overlap in SHOWN_OVERLAPS if overlap in self.masks}
        if self.masks:
            figures["mAP^r@0.1-0.9"] = self.mean_all
        return {**figures, f"mAP^b@{BOX_OVERLAP}": self.mean_boxes}

    def table(self) -> str:
        """Average precisions in percent, class by class, and their means."""
        columns: list[tuple[str, list[Curve]]] = [
            (f"AP^r@{overlap}", self.masks[overlap]) for overlap in SHOWN_OVERLAPS if self.masks
        ]
        columns.append((f"AP^b@{BOX_OVERLAP}", self.boxes))
        width = max([5, *map(len, self.classes)])
        lines = [" ".join([f"{'class':<{width}}", *(f"{title:>9}" for title, _ in columns), f"{'instances':>10}"])]
        for i, name in enumerate(self.classes):
            values = [f"{100 * curves[i].ap:9.2f}" for _, curves in columns]
            lines.append(" ".join([f"{name:<{width}}", *values, f"{columns[0][1][i].instances:>10}"]))
        lines += [f"{name} = {100 * value:.1f} %" for name, value in self.figures().items()]
        return "\n".join(lines)


def evaluate(imdb: Dataset, found: Sequence[Found], task: str, use_07_metric: bool | None = None) -> Report:
    """Compare what was found in all images of a data set with what is there.

    Masks are judged as MNC does it, by the 11-point metric. Boxes pass through VOC's text format first, scores with
    three decimals and coordinates with one, as they do in the original.

    Args:
        found: image by image, after `limit_scores`.
        use_07_metric: 11 points for boxes, too; by default only on the VOC sets before 2010.

    Raises:
        CaffeError: masks are to be judged and the data set has boxes only.
    """
    if use_07_metric is None:
        use_07_metric = imdb.name.startswith("voc_2007")
    report = Report(list(imdb.classes[1:]), {}, [])
    for c in range(1, imdb.num_classes):
        of_class = [image.where(image.classes == c) for image in found]
        if task in ("seg", "cfm"):
            truth = imdb.true_masks(c)
            rows, masks = [image.boxes for image in of_class], [image.masks for image in of_class]
            curves = evaluation.mask_curves(rows, masks, *truth, MASK_OVERLAPS)
            for overlap, curve in zip(MASK_OVERLAPS, curves):
                report.masks.setdefault(overlap, []).append(curve)
        written = [as_written(image.boxes) for image in of_class]
        report.boxes.append(evaluation.box_curve(written, *imdb.true_boxes(c), BOX_OVERLAP, use_07_metric))
    return report


def as_written(boxes: np.ndarray) -> np.ndarray:
    """Boxes with scores [n, 5] as VOC's result files hold them: one decimal, counted from 1, three of the score."""
    rows = [[*(float(f"{value + 1:.1f}") - 1 for value in row[:4]), float(f"{row[4]:.3f}")] for row in boxes.tolist()]
    return np.array(rows, np.float64).reshape(-1, 5)
