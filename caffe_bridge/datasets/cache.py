"""Annotations kept from one run to the next, in a NumPy archive without pickles that knows what it was made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Iterable, Sequence

import numpy as np

from caffe_bridge.datasets.annotation import Annotation, PackedMasks, Table
from caffe_bridge.datasets.problems import Problem
from caffe_bridge.errors import CaffeError
from caffe_bridge.weights.files import replacing

VERSION = 1  # of what is stored; a change makes old caches be read again from the data

logger = logging.getLogger(__name__)


def fingerprint(settings: object, paths: Iterable[str]) -> str:
    """A digest of settings (anything JSON can hold) and of the files' names, sizes and times of change."""
    digest = hashlib.sha256(json.dumps([VERSION, settings]).encode())
    for path in paths:
        digest.update(os.fsencode(path))
        with contextlib.suppress(OSError, ValueError):
            status = os.stat(path)
            digest.update(f"\0{status.st_size} {status.st_mtime_ns}".encode())
        digest.update(b"\n")
    return digest.hexdigest()


def store(path: str, key: str, kept: Sequence[int], table: Table, problems: Sequence[Problem]) -> None:
    """Write a table, the numbers of the images in it, and what was found wrong; a folder that refuses is no error."""
    objects = table.objects
    arrays = {
        "key": np.array(key),
        "kept": np.array(kept, np.int64),
        "starts": table.starts,
        "sizes": table.sizes,
        "boxes": objects.boxes,
        "classes": objects.classes,
        "difficult": objects.difficult,
        "problems": np.array(json.dumps(list(problems))),
    }
    if objects.masks is not None:
        arrays |= {"mask_sizes": objects.masks.sizes, "mask_bits": objects.masks.bits}
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    except (OSError, CaffeError) as error:
        logger.info(f"annotations are not cached: {error}")


def load(path: str, key: str) -> tuple[list[int], Table, list[Problem]] | None:
    """What `store` wrote under the same key; None when there is none, or it was made from other data or is damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            if str(archive["key"]) != key:
                return None
            data = {name: archive[name] for name in archive.files}
        masks = PackedMasks(data["mask_bits"], data["mask_sizes"]) if "mask_bits" in data else None
        objects = Annotation(data["boxes"], data["classes"], data["difficult"], masks)
        found = [Problem(*problem) for problem in json.loads(str(data["problems"]))]
        return data["kept"].tolist(), Table(data["starts"], data["sizes"], objects), found
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
