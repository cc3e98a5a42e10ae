"""What a net found in the images of a data set, kept image by image so that an interrupted test goes on."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Found:
    """The instances found in one image.

    Attributes:
        boxes: float32 [N, 5], (x1, y1, x2, y2) in image pixels and the score.
        classes: int64 [N], from 1.
        masks: bool [N, M, M], over the box; M is 0 where only boxes were looked for.
        scores: float32 [K], those of all candidates from before non-maximum suppression, where a limit on their number
            in the whole data set needs them (`testing.limit_scores`); and the class of each.
        score_classes: int64 [K].
    """

    boxes: np.ndarray
    classes: np.ndarray
    masks: np.ndarray
    scores: np.ndarray
    score_classes: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def where(self, rows: np.ndarray) -> Found:
        """The instances whose entry of `rows` (booleans [N]) is true."""
        return Found(self.boxes[rows], self.classes[rows], self.masks[rows], self.scores, self.score_classes)


class FoundStore:
    """A folder with a file for each image that is done.

    Args:
        folder: where; made if it does not exist.
        key: what the results depend on, in JSON terms.
    """

    def __init__(self, folder: str | Path, key: Mapping[str, Any]):
        self.folder, self._key = Path(folder), json.dumps(key, sort_keys=True, indent=1)

    def open(self, afresh: bool = False) -> None:
        """Make the folder ready; what it holds of another key goes, and with `afresh` all that it holds."""
        written = self.folder / "key.json"
        if afresh or not written.exists() or written.read_text(encoding="utf-8") != self._key:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            written.write_text(self._key, encoding="utf-8")

    def _path(self, image: int) -> Path:
        return self.folder / f"{image:07d}.npz"

    def __contains__(self, image: int) -> bool:
        return self._path(image).exists()

    def save(self, image: int, found: Found) -> None:
        """Keep the results of an image; the file appears complete or not at all."""
        temporary = self.folder / f".{image:07d}.{os.getpid()}.partial"
        bits = np.packbits(found.masks)
        with temporary.open("wb") as file:
            np.savez(
                file,
                boxes=found.boxes,
                classes=found.classes,
                masks=bits,
                mask_shape=np.array(found.masks.shape),
                scores=found.scores,
                score_classes=found.score_classes,
            )
        os.replace(temporary, self._path(image))

    def load(self, image: int) -> Found | None:
        """The results of an image; None where there are none, or a file that is damaged."""
        try:
            with np.load(self._path(image)) as file:
                shape = tuple(file["mask_shape"].tolist())
                count = int(np.prod(shape))
                masks = np.unpackbits(file["masks"], count=count).astype(bool).reshape(shape)
                return Found(file["boxes"], file["classes"], masks, file["scores"], file["score_classes"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
