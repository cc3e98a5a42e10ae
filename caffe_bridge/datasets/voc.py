"""PASCAL VOC: detection (XML, boxes only) and segmentation (PNGs, masks)."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree

import numpy as np

from caffe_bridge.datasets.problems import DamagedError
from caffe_bridge.datasets.source import FoundObject, Item, Size, Source, read_names, with_background
from caffe_bridge.errors import LayerError
from caffe_bridge.images import decode_image, read_bytes

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOID = 255  # the border between objects in segmentation PNGs


def devkit(root: str, year: str) -> str:
    """The folder VOC<year>: `root` itself or below it."""
    inside = os.path.join(root, f"VOC{year}")
    return inside if os.path.isdir(inside) else root


class VOCDetection(Source):
    """Boxes from `Annotations/*.xml`, with their difficult flags.

    Args:
        root: the folder with Annotations, ImageSets and JPEGImages, or the one with VOC<year> in it.
        image_set: names the list `ImageSets/Main/<image_set>.txt`.

    Raises:
        CaffeError: the list cannot be read.
    """

    has_masks = False

    def __init__(self, root: str, year: str, image_set: str, classes: tuple[str, ...] = VOC_CLASSES):
        self.folder = devkit(root, year)
        self.classes = with_background(classes)
        self.names = read_names(os.path.join(self.folder, "ImageSets", "Main", f"{image_set}.txt"))

    def items(self) -> list[Item]:
        return [
            Item(
                name,
                os.path.join(self.folder, "JPEGImages", f"{name}.jpg"),
                (os.path.join(self.folder, "Annotations", f"{name}.xml"),),
            )
            for name in self.names
        ]

    def read(self, item: Item, size: Size) -> list[FoundObject]:
        path = item.files[0]
        try:
            elements = ElementTree.parse(path).findall("object")
        except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
            raise DamagedError("bad_annotation", f"{path}: {getattr(error, 'strerror', None) or error}") from error
        return [_object(element, f"{path}, object {number}") for number, element in enumerate(elements, 1)]


def _object(element: ElementTree.Element, where: str) -> FoundObject:
    """VOC counts pixels from 1."""
    try:
        sides = [float(element.findtext(f"bndbox/{side}", "")) - 1 for side in ("xmin", "ymin", "xmax", "ymax")]
        difficult = int(element.findtext("difficult", "0")) != 0
    except ValueError as error:
        raise DamagedError("bad_annotation", f"{where}: bndbox or difficult is no number: {error}") from error
    x1, y1, x2, y2 = sides
    return FoundObject(element.findtext("name", "").lower().strip(), (x1, y1, x2, y2), None, difficult)


class VOCSegmentation(Source):
    """Instances from `SegmentationObject/*.png`, their classes from `SegmentationClass/*.png`.

    PNGs hold numbers as VOC's colours or as grey levels; 255 belongs to no object.

    Args:
        root: the folder with ImageSets and so on, or the one with VOC<year> in it.
        image_set: names the list `ImageSets/Segmentation/<image_set>.txt`.

    Raises:
        CaffeError: the list cannot be read.
    """

    def __init__(self, root: str, year: str, image_set: str, classes: tuple[str, ...] = VOC_CLASSES):
        self.folder = devkit(root, year)
        self.classes = with_background(classes)
        self.names = read_names(os.path.join(self.folder, "ImageSets", "Segmentation", f"{image_set}.txt"))

    def items(self) -> list[Item]:
        folders = [os.path.join(self.folder, kind) for kind in ("SegmentationObject", "SegmentationClass")]
        return [
            Item(
                name,
                os.path.join(self.folder, "JPEGImages", f"{name}.jpg"),
                tuple(os.path.join(folder, f"{name}.png") for folder in folders),
            )
            for name in self.names
        ]

    def read(self, item: Item, size: Size) -> list[FoundObject]:
        objects, classes = (read_numbers(path) for path in item.files)
        if objects.shape != classes.shape:
            shapes = " and ".join(f"{path} {map_.shape}" for path, map_ in zip(item.files, (objects, classes)))
            raise DamagedError("mask_size", f"the maps have different sizes: {shapes}")
        return instances(objects, classes, item.files[1])


def instances(objects: np.ndarray, classes: np.ndarray, where: str) -> list[FoundObject]:
    """The objects of a map of object numbers [H, W], whose classes are in another; 0 and 255 are none.

    Raises DamagedError, calling the class map `where`, when an object has no class or several.
    """
    found = []
    for number in np.setdiff1d(objects, (0, VOID)):
        mask = objects == number
        labels = np.setdiff1d(classes[mask], (0, VOID))
        if len(labels) != 1:
            names = " and ".join(map(str, labels.tolist())) or "no class"
            raise DamagedError("bad_annotation", f"{where}: object {number} is of {names}, not of one class")
        found.append(FoundObject(int(labels[0]), mask=mask))
    return found


def colours(count: int = 256) -> np.ndarray:
    """VOC's colours, uint8 [count, 3], blue, green, red: bit 3k + c of a number becomes bit 7 - k of channel c."""
    numbers = np.arange(count)
    channels = [sum((numbers >> (3 * k + c) & 1) << (7 - k) for k in range(8)) for c in range(3)]
    return np.stack(channels[::-1], 1).astype(np.uint8)


def read_numbers(path: str) -> np.ndarray:
    """The numbers [H, W] a segmentation PNG holds. Raises DamagedError when it cannot be read or has other colours."""
    try:
        pixels = decode_image(read_bytes(path), path, color=None).astype(np.int32)
    except LayerError as error:
        raise DamagedError("bad_annotation", str(error)) from error
    if pixels.shape[2] == 1:
        return pixels[:, :, 0]
    packed = pixels[:, :, 0] | pixels[:, :, 1] << 8 | pixels[:, :, 2] << 16
    known = colours().astype(np.int32)
    codes = known[:, 0] | known[:, 1] << 8 | known[:, 2] << 16
    order = np.argsort(codes)
    place = order[np.searchsorted(codes[order], packed).clip(max=255)]
    if (codes[place] != packed).any():
        y, x = np.argwhere(codes[place] != packed)[0]
        raise DamagedError("bad_annotation", f"{path}: the colour at ({x}, {y}) is none of VOC's")
    return place
