"""The Semantic Boundaries Dataset (SBD, SDS), laid out as MNC trains on it.

root/train.txt, root/val.txt      image names, one a line
root/img/NAME.jpg
root/inst/NAME.mat                GTinst.Segmentation (H, W), numbers from 1; GTinst.Categories, a class for each
root/cls/NAME.mat                 GTcls.Segmentation (H, W), class numbers; used where inst has no Categories
root/classes.txt                  class names, one a line, where they are not VOC's
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.io

from caffe_bridge.datasets.problems import DamagedError
from caffe_bridge.datasets.source import FoundObject, Item, Size, Source, read_lines, read_names, with_background
from caffe_bridge.datasets.voc import VOC_CLASSES, instances
from caffe_bridge.errors import CaffeError
from caffe_bridge.images import encode_image


class SBD(Source):
    """Instances from MATLAB files.

    Args:
        root: the folder with the lists.
        image_set: names the list `<image_set>.txt`.

    Raises:
        CaffeError: the list or classes.txt cannot be read.
    """

    def __init__(self, root: str, image_set: str):
        self.folder = root
        self.names = read_names(os.path.join(root, f"{image_set}.txt"))
        listed = os.path.join(root, "classes.txt")
        names = read_lines(listed, "class list") if os.path.exists(listed) else VOC_CLASSES
        self.classes = with_background(names)

    def items(self) -> list[Item]:
        return [
            Item(
                name,
                os.path.join(self.folder, "img", f"{name}.jpg"),
                tuple(os.path.join(self.folder, kind, f"{name}.mat") for kind in ("inst", "cls")),
            )
            for name in self.names
        ]

    def read(self, item: Item, size: Size) -> list[FoundObject]:
        of_instances, of_classes = item.files
        truth = _struct(of_instances, "GTinst")
        numbers = _map(truth, of_instances)
        if "Categories" not in (truth.dtype.names or ()):
            classes = _map(_struct(of_classes, "GTcls"), of_classes)
            if classes.shape != numbers.shape:
                raise DamagedError("mask_size", f"{of_classes}: of shape {classes.shape}, instances {numbers.shape}")
            return instances(numbers, classes, of_classes)
        categories = np.asarray(truth["Categories"]).ravel()
        found = []
        for number in np.setdiff1d(numbers, 0).astype(int).tolist():
            if not 1 <= number <= len(categories):
                text = f"instance {number} is beyond the {len(categories)} categories"
                raise DamagedError("bad_annotation", f"{of_instances}: {text}")
            found.append(FoundObject(int(categories[number - 1]), mask=numbers == number))
        return found


def _struct(path: str, name: str) -> np.void:
    """A structure in a MATLAB file."""
    try:
        value = scipy.io.loadmat(path, variable_names=[name])[name]
        struct = value.ravel()[0]
        assert isinstance(struct, np.void)
    except Exception as error:  # the reader raises whatever it stumbles over in a damaged file
        reason = getattr(error, "strerror", None) or f"holds no readable structure {name} ({type(error).__name__})"
        raise DamagedError("bad_annotation", f"{path}: {reason}") from error
    return struct


def _map(struct: np.void, path: str) -> np.ndarray:
    """The numbers [H, W] in a structure's field Segmentation."""
    values = struct["Segmentation"] if "Segmentation" in (struct.dtype.names or ()) else None
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "uif":
        raise DamagedError("bad_annotation", f"{path}: has no array Segmentation of numbers")
    return values


def write_lists(folder: str, lists: Mapping[str, Sequence[str]], classes: Sequence[str]) -> None:
    """Write the image lists and class names of a new data set. Raises CaffeError when that is impossible."""
    files = {f"{name}.txt": names for name, names in lists.items()} | {"classes.txt": classes}
    try:
        for kind in ("img", "inst", "cls"):
            os.makedirs(os.path.join(folder, kind), exist_ok=True)
        for name, lines in files.items():
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise CaffeError(f"{error.filename}: cannot be written: {error.strerror}") from error


def write_sample(
    folder: str, name: str, image: np.ndarray, numbers: np.ndarray, categories: Sequence[int], classes: int
) -> None:
    """Write one image with its instances.

    Args:
        image: uint8 [H, W, 3], blue, green, red.
        numbers: uint8 [H, W], 0 or the number of an instance, from 1.
        categories: the class of each instance.
        classes: how many there are, without the background.

    Raises:
        CaffeError: the files cannot be written.
    """
    of_instance = np.array([0, *categories], np.uint8)
    present = np.isin(np.arange(1, classes + 1), of_instance).astype(np.uint8)
    structs = {
        "inst": ("GTinst", {"Segmentation": numbers, "Categories": of_instance[1:, None]}),
        "cls": (
            "GTcls",
            {"Segmentation": of_instance[numbers], "CategoriesPresent": present[:, None]},
        ),
    }
    contents = {os.path.join("img", f"{name}.jpg"): encode_image(image, "jpg", name)}
    for kind, (variable, struct) in structs.items():
        contents[os.path.join(kind, f"{name}.mat")] = _matlab_file(variable, struct)
    try:
        for path, data in contents.items():
            with open(os.path.join(folder, path), "wb") as file:
                file.write(data)
    except OSError as error:
        raise CaffeError(f"{error.filename}: cannot be written: {error.strerror}") from error


def _matlab_file(variable: str, struct: Mapping[str, np.ndarray]) -> bytes:
    """A MATLAB 5 file of one structure; without the time of writing, so that equal data make equal files."""
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {variable: dict(struct)}, do_compression=True)
    return b"MATLAB 5.0 MAT-file".ljust(116) + buffer.getvalue()[116:]
