"""COCO instances: one JSON file with boxes and masks, as polygons or run lengths. One's own data fits in it, too."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from caffe_bridge import rle
from caffe_bridge.datasets import polygons, problems
from caffe_bridge.datasets.problems import DamagedError
from caffe_bridge.datasets.source import FoundObject, Item, Size, Source, with_background
from caffe_bridge.errors import CaffeError


class COCO(Source):
    """Objects from a file in COCO's format. Class numbers follow the order of `categories`; crowds are difficult.

    Args:
        path: the JSON file, with `images` (id, file_name), `categories` (id, name) and `annotations` (image_id,
            category_id, bbox, segmentation, iscrowd). Without annotations (test sets) images have no objects.
        images: the folder that file names are relative to.
        has_masks: False reads boxes only, from `bbox`.

    Raises:
        CaffeError: the file cannot be read or lacks one of these lists.
    """

    defaults = problems.DEFAULTS | {"box_outside": "clip"}

    def __init__(self, path: str, images: str, has_masks: bool = True):
        self.path, self.images, self.has_masks = path, images, has_masks
        self.shared_files = (path,)
        self.coco_file = path
        content = _read_json(path)
        categories = _table(content, "categories", path)
        self.classes = with_background([str(_field(category, "name", path)) for category in categories])
        self.category_ids = tuple(_field(category, "id", path) for category in categories)
        self._numbers = {str(key): number for number, key in enumerate(self.category_ids, 1)}
        rows = _table(content, "images", path)
        self._images = {str(_field(row, "id", path)): row for row in rows}
        self._objects: dict[str, list[dict[str, Any]]] = {key: [] for key in self._images}
        if len(self._images) < len(rows) or len(self._numbers) < len(categories):
            raise CaffeError(f"{path}: two images or two categories have the same id")
        for thing in _table(content, "annotations", path) if "annotations" in content else ():
            image = str(_field(thing, "image_id", path))
            if image not in self._objects:
                raise CaffeError(f"{path}: annotation {thing.get('id')} is of image {image}, which is not in 'images'")
            self._objects[image].append(thing)

    def items(self) -> list[Item]:
        return [
            Item(key, os.path.join(self.images, str(_field(row, "file_name", self.path))), id=row["id"])
            for key, row in self._images.items()
        ]

    def read(self, item: Item, size: Size) -> list[FoundObject]:
        row = self._images[item.name]
        told = row.get("height", size[0]), row.get("width", size[1])
        if told != size:
            text = f"{item.image} has {size[1]} x {size[0]} pixels, {self.path} says {told[1]} x {told[0]}"
            raise DamagedError("mask_size", text)
        return [self._object(thing, size) for thing in self._objects[item.name]]

    def _object(self, thing: dict[str, Any], size: Size) -> FoundObject:
        where = f"annotation {thing.get('id')}"
        category = thing.get("category_id")
        label = self._numbers.get(str(category), f"id {category}")
        box = _box(thing["bbox"], where) if thing.get("bbox") is not None else None
        mask = _mask(thing.get("segmentation"), size, where) if self.has_masks else None
        return FoundObject(label, box, mask, bool(thing.get("iscrowd", 0)))


def image_folder(root: str, image_set: str, year: str) -> str:
    """Where the images of an image set are; COCO's minival sets are parts of val."""
    part = "val" if image_set in ("minival", "valminusminival") else image_set
    folders = [os.path.join(root, "images", f"{part}{year}"), os.path.join(root, f"{part}{year}")]
    return next((folder for folder in folders if os.path.isdir(folder)), folders[0])


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise CaffeError(f"annotations {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CaffeError(f"annotations {path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CaffeError(f"annotations {path}: a {type(content).__name__}, not an object with 'images' and so on")
    return content


def _table(content: Mapping[str, Any], name: str, path: str) -> list[dict[str, Any]]:
    rows = content.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CaffeError(f"annotations {path}: '{name}' is no list of objects")
    return rows


def _field(row: Mapping[str, Any], name: str, where: str) -> str | int:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise CaffeError(f"{where}: '{name}' is {value!r}, not a string or an integer")
    return value


def _box(values: Any, where: str) -> tuple[float, float, float, float]:
    """From COCO's x, y, width and height to corners."""
    try:
        x, y, width, height = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise DamagedError("bad_annotation", f"{where}: bbox is {values!r}, not x, y, width, height") from error
    return x, y, x + width - 1, y + height - 1


def _mask(segmentation: Any, size: Size, where: str) -> np.ndarray | None:
    """The mask of run lengths, of their size; or of polygons, of the image's."""
    if not segmentation:
        return None
    try:
        if isinstance(segmentation, dict):
            height, width = (int(side) for side in segmentation["size"])
            if (height, width) != size:
                return np.broadcast_to(np.False_, (height, width))  # refused by its shape; nothing is allocated
            return rle.decode(segmentation)
        return np.logical_or.reduce([polygons.fill(polygon, *size) for polygon in segmentation])
    except (CaffeError, TypeError, ValueError, KeyError, OverflowError) as error:
        raise DamagedError("bad_annotation", f"{where}: segmentation: {error}") from error
