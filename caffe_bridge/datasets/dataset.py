"""A data set whose annotations have been read and checked: what training and evaluation take."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from caffe_bridge import maskdb, roidb
from caffe_bridge.datasets import cache as stored
from caffe_bridge.datasets import problems
from caffe_bridge.datasets.annotation import Annotation, PackedMasks, Table
from caffe_bridge.datasets.problems import DamagedError, Problem
from caffe_bridge.datasets.source import Item, Source, annotate
from caffe_bridge.errors import CaffeError, LayerError
from caffe_bridge.images import read_image

THREADS = min(8, os.cpu_count() or 1)


class Dataset:
    """Images with their objects.

    Attributes:
        name: as `get_imdb` was asked for it.
        classes: class names, "__background__" first.
        has_masks: whether objects have masks, or boxes only.
        image_names, image_paths: what the lists call each image, and its file.
        image_ids, category_ids: numbers of the images and of classes 1, 2, ... in files that others read: COCO's own
            for data in its format. Otherwise an image's name where all names are different numbers, or its place from
            1; and the class numbers.
        coco_file: the file in COCO's format that all of it comes from, if that is so.
        problems: what was found wrong (see `problems.KINDS`), images without objects included once `roidb` was called.
    """

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...],
        items: Sequence[Item],
        tables: Sequence[Table],
        has_masks: bool,
        found: Sequence[Problem] = (),
        actions: Mapping[str, str] = problems.DEFAULTS,
        category_ids: Sequence[int | str] | None = None,
        coco_file: str | None = None,
    ):
        self.name, self.classes, self.has_masks = name, classes, has_masks
        self.image_names = [item.name for item in items]
        self.image_paths = [item.image for item in items]
        self.image_ids = _image_ids(items)
        self.category_ids = list(category_ids if category_ids is not None else range(1, len(classes)))
        self.coco_file = coco_file
        self.problems = list(found)
        self.actions = dict(actions)
        self._tables = list(tables)
        self._places = [(table, row) for table in self._tables for row in range(len(table))]

    @property
    def num_images(self) -> int:
        """How many images there are."""
        return len(self.image_paths)

    @property
    def num_classes(self) -> int:
        """How many classes there are, the background included."""
        return len(self.classes)

    def annotation(self, image: int) -> Annotation:
        """All objects of an image, difficult ones too."""
        table, row = self._places[image]
        return table[row]

    def image_size(self, image: int) -> tuple[int, int]:
        """Height and width of an image."""
        table, row = self._places[image]
        height, width = table.sizes[row].tolist()
        return height, width

    def training_images(self) -> list[int]:
        """The images with an object that is not difficult.

        Raises:
            CaffeError: there is one without and no_object is "refuse", or no image has any.
        """
        numbers = range(self.num_images)
        without = [i for i in numbers if self.annotation(i).difficult.all()]
        empty = [Problem("no_object", f"{self.image_names[i]}: no object to train on") for i in without]
        if not any(problem.kind == "no_object" for problem in self.problems):
            problems.settle(self.name, empty, self.actions)
            self.problems += empty
        if len(without) == self.num_images:
            raise CaffeError(f"{self.name}: none of its {self.num_images} images has an object to train on")
        return sorted(set(numbers) - set(without))

    def roidb(self, flipped: bool = False) -> list[dict[str, Any]]:
        """The training database: a dictionary for each of `training_images` (see `caffe_bridge.roidb`).

        With `flipped`, all of them once more as mirrored images, after the others.
        """
        return roidb.build(self, flipped)

    def maskdb(self, flipped: bool = False) -> list[dict[str, Any]]:
        """The masks that belong to the entries of `roidb`, one for one (see `caffe_bridge.maskdb`).

        Raises:
            CaffeError: the data set has boxes only.
        """
        return maskdb.build(self, flipped)

    def true_boxes(self, label: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Boxes [g, 4] of class number `label` and whether they are difficult [g], image by image.

        This is what `evaluation.box_ap` takes.
        """
        rows = [self.annotation(i) for i in range(self.num_images)]
        chosen = [truth.classes == label for truth in rows]
        boxes = [truth.boxes[of_class] for truth, of_class in zip(rows, chosen)]
        return boxes, [truth.difficult[of_class] for truth, of_class in zip(rows, chosen)]

    def true_masks(self, label: int) -> tuple[list[np.ndarray], list[PackedMasks]]:
        """Boxes [g, 4] and masks [g] of class number `label`, image by image, without difficult objects.

        This is what `evaluation.mask_ap` takes.

        Raises:
            CaffeError: the data set has boxes only.
        """
        boxes, masks = [], []
        for i in range(self.num_images):
            truth = self.annotation(i)
            truth = truth.where((truth.classes == label) & ~truth.difficult)
            boxes.append(truth.boxes)
            masks.append(self.require_masks(truth))
        return boxes, masks

    def require_masks(self, annotation: Annotation) -> PackedMasks:
        """The masks of an annotation of this data set. Raises CaffeError when it has boxes only."""
        if annotation.masks is None:
            raise CaffeError(f"{self.name} has boxes but no masks; instance segmentation needs a data set with masks")
        return annotation.masks


def load(
    name: str,
    source: Source,
    policy: Mapping[str, str] | None = None,
    cache: str | None = None,
) -> Dataset:
    """Read and check all images and annotations of a source.

    Args:
        policy: what to do about each kind of problem (`problems.policy`).
        cache: folder to keep the result in, so that the next time is quick; None keeps nothing.

    Raises:
        CaffeError: something is wrong that the policy refuses; the message names and counts it.
    """
    actions = problems.policy(policy, source.defaults)
    items = list(source.items())
    settings = [type(source).__name__, source.classes, source.has_masks, actions, [item.name for item in items]]
    paths = [*source.shared_files, *(path for item in items for path in (item.image, *item.files))]
    key = stored.fingerprint(settings, paths)
    path = os.path.join(cache or "", re.sub(r"[^\w.-]+", "_", name)[-150:] + ".npz")
    known = stored.load(path, key) if cache else None
    if known is None:
        kept, table, found = _read(source, items, actions)
        refused = any(actions[problem.kind] == "refuse" for problem in found)
        if cache and not refused:
            stored.store(path, key, kept, table, found)
    else:
        kept, table, found = known
    problems.settle(name, found, actions)
    if not kept:
        raise CaffeError(f"{name}: none of its {len(items)} images can be used")
    return Dataset(
        name,
        source.classes,
        [items[i] for i in kept],
        [table],
        source.has_masks,
        found,
        actions,
        source.category_ids,
        source.coco_file,
    )


def _image_ids(items: Sequence[Item]) -> list[int | str]:
    own = [item.id for item in items]
    if None not in own and len(set(own)) == len(own):
        return [each for each in own if each is not None]
    names = [item.name for item in items]
    if all(name.isascii() and name.isdigit() for name in names) and len({int(name) for name in names}) == len(names):
        return [int(name) for name in names]
    return list(range(1, len(names) + 1))


def _read(source: Source, items: Sequence[Item], actions: Mapping[str, str]) -> tuple[list[int], Table, list[Problem]]:
    """Numbers of the images that can be used, their annotations, and what was wrong."""

    def read(item: Item) -> tuple[tuple[int, int], Annotation | None, list[Problem]]:
        try:
            try:
                height, width, _ = read_image(item.image).shape
            except LayerError as error:
                raise DamagedError("missing_image", str(error)) from error
            size = height, width
            return size, *annotate(item, source.read(item, size), size, source, actions)
        except DamagedError as error:
            return (0, 0), None, [Problem(error.kind, f"{item.name}: {error}")]

    with ThreadPoolExecutor(THREADS) as threads:
        results = list(threads.map(read, items))
    kept = [i for i, (_, annotation, _) in enumerate(results) if annotation is not None]
    annotations = [annotation for _, annotation, _ in results if annotation is not None]
    table = Table.of(annotations, [results[i][0] for i in kept], source.has_masks)
    return kept, table, [problem for _, _, noted in results for problem in noted]


def join(datasets: Sequence[Dataset]) -> Dataset:
    """Several data sets one after the other.

    Raises:
        CaffeError: their classes differ, or some have masks and others do not.
    """
    first = datasets[0]
    for other in datasets[1:]:
        if other.classes != first.classes:
            raise CaffeError(f"{first.name} and {other.name} have different classes and cannot be joined")
        if other.has_masks != first.has_masks:
            raise CaffeError(f"one of {first.name} and {other.name} has masks, the other boxes only")
    return Dataset(
        "+".join(dataset.name for dataset in datasets),
        first.classes,
        [
            Item(name, path, id=own)
            for each in datasets
            for name, path, own in zip(each.image_names, each.image_paths, each.image_ids)
        ],
        [table for each in datasets for table in each._tables],
        first.has_masks,
        [problem for each in datasets for problem in each.problems],
        first.actions,
        first.category_ids if all(each.category_ids == first.category_ids for each in datasets) else None,
    )
