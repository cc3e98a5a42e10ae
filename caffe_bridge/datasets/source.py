"""What a data set format has to provide, and the checks every format's objects go through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caffe_bridge.datasets import problems
from caffe_bridge.datasets.annotation import Annotation, PackedMasks
from caffe_bridge.datasets.problems import DamagedError, Problem
from caffe_bridge.errors import CaffeError

Size = tuple[int, int]
MAX_SIDE = 2**20


@dataclass(frozen=True)
class Item:
    """One image of a data set: what it is called, its file, the files its annotation is in, and its own number."""

    name: str
    image: str
    files: tuple[str, ...] = ()
    id: int | str | None = None


@dataclass(frozen=True)
class FoundObject:
    """An object as a format describes it, before any check.

    Attributes:
        label: its class by name, or by number from 1.
        box: (x1, y1, x2, y2) in image pixels, corners inclusive; None for the mask's extent.
        mask: bool [H, W] over the whole image; None where there are boxes only.
        difficult: counts neither as found nor as missed, and is not trained on.
    """

    label: str | int
    box: tuple[float, float, float, float] | None = None
    mask: np.ndarray | None = None
    difficult: bool = False


class Source:
    """A data set in some format. Subclasses find the images and read one image's objects.

    Attributes:
        classes: class names, "__background__" first.
        has_masks: whether objects have masks.
        shared_files: annotation files that concern every image.
        defaults: what to do about problems unless the user says otherwise.
        category_ids: the format's own numbers of classes 1, 2, ..., where it has some.
        coco_file: the file in COCO's format that all of it comes from.
    """

    classes: tuple[str, ...]
    has_masks = True
    shared_files: tuple[str, ...] = ()
    defaults: Mapping[str, str] = problems.DEFAULTS
    category_ids: tuple[int | str, ...] | None = None
    coco_file: str | None = None

    def items(self) -> Sequence[Item]:
        """The images, in order. Raises CaffeError when there is no list of them."""
        raise NotImplementedError

    def read(self, item: Item, size: Size) -> list[FoundObject]:
        """The objects of an image of `size` (height, width). May be called from several threads.

        Raises:
            DamagedError: the annotation cannot be used; the image is then left out as a whole.
        """
        raise NotImplementedError


def with_background(names: Sequence[str]) -> tuple[str, ...]:
    """A class list from names: the background first, no name twice, none empty."""
    if not names or len(set(names)) < len(names) or "" in names:
        raise CaffeError(f"class names are given once each and are not empty: {', '.join(names) or '(none)'}")
    return ("__background__", *names)


def read_lines(path: str, what: str) -> list[str]:
    """The lines of a text file that are not blank. Raises CaffeError when it cannot be read or has none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.strip() for line in file]
    except OSError as error:
        raise CaffeError(f"{what} {path}: {error.strerror}") from error
    lines = [line for line in lines if line]
    if not lines:
        raise CaffeError(f"{what} {path}: the list is empty")
    return lines


def read_names(path: str) -> list[str]:
    """The image names of a VOC or SBD list: the first word of every line."""
    names = [line.split()[0] for line in read_lines(path, "image list")]
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise CaffeError(f"image list {path}: {twice} appears twice")
    return names


def annotate(
    item: Item, found: Sequence[FoundObject], size: Size, source: Source, actions: Mapping[str, str]
) -> tuple[Annotation, list[Problem]]:
    """The objects of an image of `size` (height, width) that stand every check, and what was wrong with the others."""
    noted: list[Problem] = []
    boxes, classes, difficult, masks = [], [], [], []
    for number, thing in enumerate(found, 1):
        where = f"{item.name}, object {number}"
        try:
            label = _class_number(thing.label, source.classes)
            box = _whole_pixels(thing.box) if thing.box is not None else None
            if box and not _inside(box, size):
                text = f"{where}: has a box {_text(box)} in an image of {size[1]} x {size[0]} pixels"
                noted.append(Problem("box_outside", text))
                if actions["box_outside"] != "clip":
                    continue
                box = _clipped(box, size)
            if source.has_masks:
                box, mask = _cut(thing.mask, size)
                masks.append(mask)
            elif box is None:
                raise DamagedError("bad_annotation", "has no box")
        except DamagedError as error:
            noted.append(Problem(error.kind, f"{where}: {error}"))
            continue
        boxes.append(box)
        classes.append(label)
        difficult.append(thing.difficult)
    annotation = Annotation(
        np.array(boxes, np.int32).reshape(-1, 4),
        np.array(classes, np.int32),
        np.array(difficult, bool),
        PackedMasks.pack(masks) if source.has_masks else None,
    )
    return annotation, noted


def _class_number(label: str | int, classes: Sequence[str]) -> int:
    if isinstance(label, str):
        if label not in classes[1:]:
            raise DamagedError("unknown_class", f"is of class {label[:60]!r}")
        return classes.index(label, 1)
    if not 1 <= label < len(classes):
        raise DamagedError("unknown_class", f"is of class number {label}; the list ends with {len(classes) - 1}")
    return label


def _whole_pixels(box: Sequence[float]) -> list[int]:
    if not np.isfinite(box).all() or max(map(abs, box)) > MAX_SIDE:
        raise DamagedError("bad_annotation", f"has a box {_text(box)}")
    x1, y1, x2, y2 = (int(corner) for corner in box)
    if x2 < x1 or y2 < y1:
        raise DamagedError("empty_object", f"has a box {_text(box)} without a pixel")
    return [x1, y1, x2, y2]


def _inside(box: Sequence[int], size: Size) -> bool:
    x1, y1, x2, y2 = box
    return x1 >= 0 and y1 >= 0 and x2 < size[1] and y2 < size[0]


def _clipped(box: Sequence[int], size: Size) -> list[int]:
    x1, y1, x2, y2 = box
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, size[1] - 1), min(y2, size[0] - 1)
    if x2 < x1 or y2 < y1:
        raise DamagedError("empty_object", f"has a box {_text(box)} without a pixel in the image")
    return [x1, y1, x2, y2]


def _cut(mask: np.ndarray | None, size: Size) -> tuple[list[int], np.ndarray]:
    """The tight box of a mask over the whole image, and the mask cut to it."""
    if mask is None:
        raise DamagedError("bad_annotation", "has no mask")
    if mask.shape != size:
        shape = " x ".join(map(str, mask.shape[::-1]))
        raise DamagedError("mask_size", f"has a mask of {shape} pixels, the image {size[1]} x {size[0]}")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise DamagedError("empty_object", "has a mask without a pixel")
    x1, y1, x2, y2 = (int(end) for end in (columns[0], rows[0], columns[-1], rows[-1]))
    return [x1, y1, x2, y2], mask[y1 : y2 + 1, x1 : x2 + 1]


def _text(box: Sequence[float]) -> str:
    return "(" + ", ".join(f"{corner:g}" for corner in box) + ")"
