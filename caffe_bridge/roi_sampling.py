"""How Fast and Faster R-CNN draw the RoIs of a minibatch from candidates and their overlaps with the ground truth."""

from __future__ import annotations

from typing import Any

import numpy as np

from caffe_bridge.config import cfg
from caffe_bridge.errors import LayerError


def setting(name: str) -> float:
    """cfg.TRAIN.`name`, a number or a list of one, which is the form MNC gives some of them.

    Raises LayerError when it is missing or a list of several.
    """
    value = cfg.TRAIN.get(name)
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise LayerError(
            f"TRAIN.{name} is one number for py-faster-rcnn's layers, not {value!r}; "
            'caffe_bridge.config.use("py_faster_rcnn") loads their defaults'
        )
    return value


def draw_rois(overlaps: np.ndarray, count: int, random: Any = np.random) -> tuple[np.ndarray, int]:
    """Draw up to `count` of the candidates whose best overlaps are `overlaps` [N].

    At most TRAIN.FG_FRACTION of `count` (rounded half to even) are foreground, with an overlap of TRAIN.FG_THRESH or
    more; the rest has one from TRAIN.BG_THRESH_LO up to, but not at, TRAIN.BG_THRESH_HI. `random` is asked whenever
    there is a candidate, even when all of them are taken.

    Returns:
        Row numbers, the foreground first, each part in the order of the draw; and the number of foreground rows.
    """
    low, high = setting("BG_THRESH_LO"), setting("BG_THRESH_HI")
    limit = max(int(np.round(setting("FG_FRACTION") * count)), 0)
    foreground = _draw(np.flatnonzero(overlaps >= setting("FG_THRESH")), limit, random)
    background = _draw(np.flatnonzero((overlaps < high) & (overlaps >= low)), count - len(foreground), random)
    return np.concatenate([foreground, background]), len(foreground)


def _draw(candidates: np.ndarray, limit: int, random: Any) -> np.ndarray:
    if not len(candidates):
        return candidates
    return random.choice(candidates, size=min(max(limit, 0), len(candidates)), replace=False)


def usable(overlaps: np.ndarray) -> bool:
    """Whether there is a candidate that `draw_rois` might take."""
    background = (overlaps < setting("BG_THRESH_HI")) & (overlaps >= setting("BG_THRESH_LO"))
    return bool(((overlaps >= setting("FG_THRESH")) | background).any())
