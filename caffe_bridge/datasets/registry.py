"""Data sets by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from caffe_bridge.config import cfg
from caffe_bridge.datasets.coco import COCO, image_folder
from caffe_bridge.datasets.dataset import Dataset, join, load
from caffe_bridge.datasets.mask_folder import MaskFolder
from caffe_bridge.datasets.sbd import SBD
from caffe_bridge.datasets.source import Source
from caffe_bridge.datasets.voc import VOCDetection, VOCSegmentation
from caffe_bridge.errors import CaffeError

Opener = Callable[[str], Source]

_COCO_SETS = {
    "2014": ("train", "val", "minival", "valminusminival"),
    "2015": ("test", "test-dev"),
    "2017": ("train", "val"),
}

_sets: dict[str, tuple[str, Opener]] = {}


def register(name: str, folder: str, opener: Opener) -> None:
    """Make `get_imdb` know a data set.

    Args:
        folder: where it is by default, below cfg.DATA_DIR.
        opener: makes its source, given the folder.
    """
    _sets[name] = (folder, opener)


def list_imdbs() -> list[str]:
    """The names `get_imdb` knows."""
    return sorted(_sets)


def get_imdb(
    name: str, root: str | Path | None = None, policy: Mapping[str, str] | None = None, cache: bool = True
) -> Dataset:
    """The data set of a name, read and checked.

    Args:
        name: one of `list_imdbs()`; or "sbd:FOLDER:LIST", "masks:FOLDER:LIST" or "coco:FILE.json:IMAGES" for data of
            one's own; or several of these joined with +.
        root: its folder, where that is not the usual one below cfg.DATA_DIR; for all that are joined.
        policy: what to do about problems, kind by kind: "skip" or "refuse" (see `problems.KINDS`).
        cache: keep the annotations in the folder `cache` of the data set, as long as the data do not change.

    Raises:
        CaffeError: an unknown name, or data that the policy refuses.
    """
    parts = [_open(part, None if root is None else str(root), policy, cache) for part in name.split("+")]
    return parts[0] if len(parts) == 1 else join(parts)


def _open(name: str, root: str | None, policy: Mapping[str, str] | None, cache: bool) -> Dataset:
    scheme, *places = name.split(":")
    if places:
        folder, source = _own(name, scheme, places)
    elif name in _sets:
        usual, opener = _sets[name]
        folder = root or os.path.join(cfg.DATA_DIR, usual)
        if not os.path.isdir(folder):
            raise CaffeError(f"data set {name}: there is no folder {folder}")
        source = opener(folder)
    else:
        near = difflib.get_close_matches(name, _sets, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(list_imdbs())}"
        raise CaffeError(f"no data set is called {name!r}; {hint}")
    return load(name, source, policy, os.path.join(folder, "cache") if cache else None)


def _own(name: str, scheme: str, places: list[str]) -> tuple[str, Source]:
    if scheme not in ("coco", "masks", "sbd") or len(places) != 2 or not all(places):
        raise CaffeError(f"{name!r}: own data are named coco:FILE.json:IMAGES, masks:FOLDER:LIST or sbd:FOLDER:LIST")
    first, second = places
    if scheme == "coco":
        return os.path.dirname(first) or ".", COCO(first, second)
    return first, SBD(first, second) if scheme == "sbd" else MaskFolder(first, second)


def _register_known() -> None:
    for part in ("train", "val"):
        register(f"voc_2012_seg_{part}", "VOCdevkitSDS", partial(SBD, image_set=part))
        register(f"shapes_{part}", "shapes", partial(SBD, image_set=part))
    for year in ("2007", "2012"):
        for part in ("train", "val", "trainval", "test"):
            folder = f"VOCdevkit{year}"
            register(f"voc_{year}_{part}", folder, partial(VOCDetection, year=year, image_set=part))
            register(f"voc_{year}_segmentation_{part}", folder, partial(VOCSegmentation, year=year, image_set=part))
    for year, parts in _COCO_SETS.items():
        for part in parts:
            register(f"coco_{year}_{part}", "coco", partial(_coco, year=year, part=part))


def _coco(root: str, year: str, part: str) -> COCO:
    kind = "image_info" if part.startswith("test") else "instances"
    folder = image_folder(root, "test" if part.startswith("test") else part, year)
    return COCO(os.path.join(root, "annotations", f"{kind}_{part}{year}.json"), folder)


_register_known()
