"""Turn MCG's proposals into the boxes and masks that CFM is trained and tested on.

The arguments are those of MNC's tools/prepare_mcg_maskdb.py; what it lacks comes last. For each image of the data set
NAME.mat is read from --input, and NAME.mat and NAME_flip.mat are written to --output, or NAME.mat with boxes and masks
alone for testing. Started again, it goes on where it was stopped. The status is 1 when an image could not be done.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffe_bridge import image_jobs, matlab_files, mcg, proposal_targets
from caffe_bridge.cli import documented_parser, run
from caffe_bridge.datasets import Dataset, get_imdb
from caffe_bridge.datasets.annotation import PackedMasks
from caffe_bridge.errors import CaffeError
from caffe_bridge.ground_truth_pickle import read_gt_masks, read_gt_roidb

_NAMES = {"train": "voc_2012_seg_train", "val": "voc_2012_seg_val"}
_SETTINGS = "settings.json"
_LISTED = 5  # names in a message


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = documented_parser(__doc__)
    parser.add_argument("--input", default="data/MCG-raw/", metavar="DIR", help="MCG's files (%(default)s)")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the files that CFM reads")
    parser.add_argument("--gt_roi", metavar="PKL", help="MNC's gt_roidb.pkl; by default the data set's annotations")
    parser.add_argument("--gt_mask", metavar="PKL", help="MNC's gt_maskdb.pkl, to go with --gt_roi")
    parser.add_argument("-mask_sz", "--mask_sz", type=_side, default=21, metavar="N", help="side of masks (21)")
    parser.add_argument("--top_k", type=_limit, default=-1, metavar="N", help="first proposals to take (-1: all)")
    parser.add_argument("--db", default="train", metavar="NAME", help="train or val (MNC's SBD), or a data set's name")
    parser.add_argument("--para_job", type=_processes, default=1, metavar="N", help="processes (1)")
    parser.add_argument("--root", metavar="DIR", help="the data set's folder, where it is not the usual one")
    parser.add_argument("--test", action="store_true", help="write boxes and masks alone, as for --db val")
    parser.add_argument("--overwrite", action="store_true", help="make files anew that are there")
    args = parser.parse_args(argv)
    if bool(args.gt_roi) != bool(args.gt_mask):
        parser.error("--gt_roi and --gt_mask go together")
    return args


def _side(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 256")
    return int(text)


def _limit(text: str) -> int:
    if text != "-1" and (not text.isdecimal() or int(text) < 1):
        raise argparse.ArgumentTypeError(f"{text!r} is neither -1 nor a number from 1")
    return int(text)


def _processes(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 1024")
    return int(text)


@dataclass(frozen=True)
class Truth:
    """The instances of an image: int boxes [G, 4], classes [G], and masks as large as the boxes."""

    boxes: np.ndarray
    classes: np.ndarray
    masks: PackedMasks


@dataclass(frozen=True)
class Task:
    """One image: where its proposals are, where they go, its (height, width), and what to compare them with."""

    source: str
    target: str
    size: tuple[int, int]
    truth: Truth | None
    mask_size: int
    top_k: int

    @property
    def mirrored(self) -> str:
        """The file of the mirror image."""
        return f"{self.target.removesuffix('.mat')}_flip.mat"

    def done(self) -> bool:
        """Whether its files are there."""
        return os.path.exists(self.target) and (self.truth is None or os.path.exists(self.mirrored))


def prepare(task: Task) -> str | None:
    """Write the files of an image; returns a remark about it, if there is one to make.

    Raises:
        CaffeError: its proposals cannot be used, or the files not be written.
    """
    grouping = mcg.read(task.source, task.top_k)
    if grouping.superpixels.shape != task.size:
        sizes = ["{}x{}".format(*size) for size in (grouping.superpixels.shape, task.size)]
        raise CaffeError(f"{task.source}: its superpixels are those of an image of {sizes[0]}, this one is {sizes[1]}")
    boxes, masks = mcg.decode(grouping, task.mask_size)
    if task.truth is None:
        matlab_files.save(task.target, proposal_targets.for_testing(boxes, masks))
    else:
        truth = task.truth
        arrays = proposal_targets.for_training(boxes, masks, truth.boxes, truth.masks, truth.classes)
        matlab_files.save(task.target, arrays)
        matlab_files.save(task.mirrored, proposal_targets.mirrored(arrays, task.size[1]))
    if not len(grouping):
        return f"{task.source}: has no proposal with a pixel in the image"
    return f"{task.source}: {grouping.empty} proposals without a pixel left out" if grouping.empty else None


def truths(dataset: Dataset, gt_roi: str | None, gt_mask: str | None) -> list[Truth]:
    """The instances of each image, from MNC's pickles, or else from the data set, without difficult ones.

    Raises:
        CaffeError: the pickles cannot be read or do not belong to this data set, or the data set has no masks.
    """
    if gt_roi and gt_mask:
        entries = list(zip(read_gt_roidb(gt_roi), read_gt_masks(gt_mask)))
        if len(entries) not in (dataset.num_images, 2 * dataset.num_images):  # mirrored ones come last
            raise CaffeError(f"{gt_roi} has {len(entries)} images with masks, {dataset.name} has {dataset.num_images}")
        found = []
        for name, (boxes, classes), masks in ((n, *entry) for n, entry in zip(dataset.image_names, entries)):
            sides = (boxes[:, [3, 2]] - boxes[:, [1, 0]] + 1).tolist()
            if sides != [list(mask.shape) for mask in masks]:
                raise CaffeError(f"{gt_mask}: {name}: its masks are not as large as the boxes in {gt_roi}")
            found.append(Truth(boxes, classes, PackedMasks.pack(masks)))
        return found
    found = []
    for i in range(dataset.num_images):
        annotation = dataset.annotation(i)
        annotation = annotation.where(~annotation.difficult)
        found.append(Truth(annotation.boxes, annotation.classes, dataset.require_masks(annotation)))
    return found


def check_settings(folder: str, settings: dict[str, Any], overwrite: bool) -> None:
    """Note in the output folder how its files are made. Raises CaffeError when they were made in another way."""
    path, text = os.path.join(folder, _SETTINGS), json.dumps(settings, sort_keys=True, indent=1)
    os.makedirs(folder, exist_ok=True)
    if os.path.exists(path) and not overwrite:
        with open(path, encoding="utf-8") as file:
            if file.read() != text:
                raise CaffeError(
                    f"{path}: files here were made with other settings; choose another folder or --overwrite"
                )
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 1 when an image could not be done. Raises CaffeError when none can be."""
    args = parse_args(argv)
    if not os.path.isdir(args.input):
        raise CaffeError(f"{args.input}: there is no such folder; --input is where MCG's files are")
    dataset = get_imdb(_NAMES.get(args.db, args.db), args.root)
    testing = args.test or args.db == "val"
    settings = {"db": dataset.name, "mask_sz": args.mask_sz, "top_k": args.top_k, "test": testing}
    check_settings(args.output, settings, args.overwrite)
    of_images: list[Truth] | list[None] = (
        [None] * dataset.num_images if testing else truths(dataset, args.gt_roi, args.gt_mask)
    )
    pairs = list(zip(dataset.image_names, of_images))
    without = [name for name, truth in pairs if truth is not None and not len(truth.boxes)]
    if without:
        names = ", ".join(without[:_LISTED]) + (", ..." if len(without) > _LISTED else "")
        print(f"{len(without)} images without an object are left out: {names}", file=sys.stderr)
    tasks = [
        Task(
            os.path.join(args.input, f"{name}.mat"),
            os.path.join(args.output, f"{name}.mat"),
            dataset.image_size(i),
            truth,
            args.mask_sz,
            args.top_k,
        )
        for i, (name, truth) in enumerate(pairs)
        if truth is None or len(truth.boxes)
    ]
    left = [task for task in tasks if args.overwrite or not task.done()]
    failed = image_jobs.work(prepare, left, args.para_job)
    before = len(tasks) - len(left)
    print(f"{args.output}: {len(left) - failed} images written, {before} were there, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run(main))
