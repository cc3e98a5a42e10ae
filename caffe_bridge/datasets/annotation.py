"""What is known about the objects of an image, and of many images in flat arrays that can be stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


class PackedMasks(Sequence[np.ndarray]):
    """Masks of different sizes held at a bit a pixel; an index gives one of them, bool [h, w].

    Args:
        bits: uint8, the masks one after the other, rows first, each starting on a byte of its own.
        sizes: int [N, 2], height and width of each.
        flipped: give every mask mirrored left to right.
    """

    def __init__(self, bits: np.ndarray, sizes: np.ndarray, flipped: bool = False):
        self.bits, self.sizes, self.flipped = bits, np.asarray(sizes, np.int64).reshape(-1, 2), flipped
        self._ends = np.cumsum((self.sizes.prod(1) + 7) // 8)

    @classmethod
    def pack(cls, masks: Sequence[np.ndarray]) -> PackedMasks:
        """Masks [h, w], zero or not, packed."""
        packed = [np.packbits(np.asarray(mask, bool)) for mask in masks]
        sizes = np.array([mask.shape for mask in masks], np.int64).reshape(-1, 2)
        return cls(np.concatenate([np.empty(0, np.uint8), *packed]), sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"mask {index} of {len(self)}")
        index %= len(self)
        height, width = self.sizes[index].tolist()
        end = int(self._ends[index])
        bits = self.bits[end - (height * width + 7) // 8 : end]
        mask = np.unpackbits(bits, count=height * width).astype(bool).reshape(height, width)
        return mask[:, ::-1] if self.flipped else mask

    def mirrored(self) -> PackedMasks:
        """The same masks mirrored left to right, sharing the memory."""
        return PackedMasks(self.bits, self.sizes, not self.flipped)

    def part(self, start: int, stop: int) -> PackedMasks:
        """Masks `start` to `stop` - 1, sharing the memory."""
        first = int(self._ends[start - 1]) if start else 0
        last = int(self._ends[stop - 1]) if stop else 0
        return PackedMasks(self.bits[first:last], self.sizes[start:stop], self.flipped)

    def where(self, rows: np.ndarray) -> PackedMasks:
        """The masks whose entry of `rows` (booleans [N]) is true."""
        if rows.all():
            return self
        kept = PackedMasks.pack([self[i][:, ::-1] if self.flipped else self[i] for i in np.flatnonzero(rows)])
        return kept.mirrored() if self.flipped else kept


@dataclass(frozen=True)
class Annotation:
    """The objects of one image.

    Attributes:
        boxes: int32 [G, 4], (x1, y1, x2, y2) in image pixels, corners inclusive.
        classes: int32 [G], numbers in the data set's class list, from 1.
        difficult: bool [G], objects that count neither as found nor as missed (VOC's difficult, COCO's crowds).
        masks: G masks bool, each as large as its box; None where the data set has boxes only.
    """

    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray
    masks: PackedMasks | None

    def __len__(self) -> int:
        return len(self.boxes)

    def where(self, rows: np.ndarray) -> Annotation:
        """The objects whose entry of `rows` (booleans [G]) is true."""
        masks = self.masks.where(rows) if self.masks is not None else None
        return Annotation(self.boxes[rows], self.classes[rows], self.difficult[rows], masks)


@dataclass(frozen=True)
class Table:
    """The annotations of a data set: those of image i are rows `starts[i]` to `starts[i + 1]`.

    Attributes:
        starts: int64 [images + 1].
        sizes: int32 [images, 2], height and width of each image.
        objects: the rows of all images together.
    """

    starts: np.ndarray
    sizes: np.ndarray
    objects: Annotation

    @classmethod
    def of(cls, annotations: Sequence[Annotation], sizes: Sequence[tuple[int, int]], masks: bool) -> Table:
        """The annotations and sizes (height, width) of images, as one table; with masks or without."""
        packed = None
        if masks:
            parts = [annotation.masks for annotation in annotations if annotation.masks is not None]
            packed = PackedMasks(
                np.concatenate([np.empty(0, np.uint8), *(part.bits for part in parts)]),
                np.concatenate([np.empty((0, 2), np.int64), *(part.sizes for part in parts)]),
            )
        objects = Annotation(
            np.concatenate([np.empty((0, 4), np.int32), *(annotation.boxes for annotation in annotations)]),
            np.concatenate([np.empty(0, np.int32), *(annotation.classes for annotation in annotations)]),
            np.concatenate([np.empty(0, bool), *(annotation.difficult for annotation in annotations)]),
            packed,
        )
        starts = np.cumsum([0, *(len(annotation) for annotation in annotations)], dtype=np.int64)
        return cls(starts, np.array(sizes, np.int32).reshape(-1, 2), objects)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, image: int) -> Annotation:
        start, stop = self.starts[image : image + 2].tolist()
        rows, objects = slice(start, stop), self.objects
        masks = objects.masks.part(start, stop) if objects.masks is not None else None
        return Annotation(objects.boxes[rows], objects.classes[rows], objects.difficult[rows], masks)
