"""One's own data without any annotation format: a folder of images and a folder of masks.

root/classes.txt                        class names, one a line
root/train.txt, root/val.txt            image names without ending, one a line
root/images/NAME.jpg (or .png ...)
root/masks/NAME/CLASS_ANYTHING.png      one object: what is not 0 (or black) belongs to it
"""

from __future__ import annotations

import os

import numpy as np

from caffe_bridge.datasets.problems import DamagedError
from caffe_bridge.datasets.source import FoundObject, Item, Size, Source, read_lines, read_names, with_background
from caffe_bridge.errors import LayerError
from caffe_bridge.images import decode_image, read_bytes

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class MaskFolder(Source):
    """Objects from mask images, whose file names begin with their class.

    Args:
        root: the folder with classes.txt and the lists.
        image_set: names the list `<image_set>.txt`.

    Raises:
        CaffeError: a list cannot be read.
    """

    def __init__(self, root: str, image_set: str):
        self.folder = root
        self.names = read_names(os.path.join(root, f"{image_set}.txt"))
        self.classes = with_background(read_lines(os.path.join(root, "classes.txt"), "class list"))

    def items(self) -> list[Item]:
        folder = os.path.join(self.folder, "images")
        present = {entry.name for entry in os.scandir(folder)} if os.path.isdir(folder) else set()
        items = []
        for name in self.names:
            ending = next((ending for ending in ENDINGS if name + ending in present), ENDINGS[0])
            items.append(Item(name, os.path.join(folder, name + ending), self._masks(name)))
        return items

    def _masks(self, name: str) -> tuple[str, ...]:
        folder = os.path.join(self.folder, "masks", name)
        try:
            return tuple(sorted(entry.path for entry in os.scandir(folder) if entry.name.lower().endswith(ENDINGS)))
        except OSError:
            return (folder,)

    def read(self, item: Item, size: Size) -> list[FoundObject]:
        return [FoundObject(self._class(path), mask=_read_mask(path)) for path in item.files]

    def _class(self, path: str) -> str:
        """The longest class name that the file's name begins with: names may hold underscores."""
        stem = os.path.splitext(os.path.basename(path))[0]
        known = [name for name in self.classes[1:] if stem == name or stem.startswith(f"{name}_")]
        return max(known, key=len, default=stem.partition("_")[0])


def _read_mask(path: str) -> np.ndarray:
    try:
        pixels = decode_image(read_bytes(path), path, color=None)
    except LayerError as error:
        raise DamagedError("bad_annotation", str(error)) from error
    return (pixels[:, :, :3] != 0).any(axis=2)
