"""What py-faster-rcnn computed (reference/PYFRCNN.md), case by case, under its own settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from caffe_bridge.config import cfg, use

FOLDER = Path(__file__).parent / "reference" / "pyfrcnn"


def names(*operations: str) -> list[str]:
    """The recorded cases of some operations."""
    found = {operation: sorted(path.stem for path in FOLDER.glob(f"{operation}__*.npz")) for operation in operations}
    assert all(found.values()), found
    return [case for cases in found.values() for case in cases]


def load(case: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the parameters of a case."""
    data = dict(np.load(FOLDER / f"{case}.npz"))
    return data, json.loads(str(data.pop("param_json")))


@contextmanager
def settings(changes: dict[str, Any] | None = None) -> Iterator[None]:
    """py-faster-rcnn's defaults with some values changed; MNC's again afterwards."""
    use("py_faster_rcnn")
    try:
        for key, value in (changes or {}).items():
            section, _, name = key.rpartition(".")
            (cfg[section] if section else cfg)[name] = value
        yield
    finally:
        use("mnc")


def close(got: Any, want: np.ndarray, tolerance: float = 1e-5) -> None:
    """Assert that shapes agree, and values relative to the largest."""
    got = np.asarray(got, np.float64)
    assert got.shape == want.shape
    if want.size:
        assert np.abs(got - want).max() <= tolerance * max(1.0, np.abs(want).max())


class RecordedNet:
    """Stands for a net of 5 classes: answers with recorded arrays `in_<blob>`, and keeps what it was asked."""

    def __init__(self, data: dict[str, np.ndarray]):
        self.blobs = {name.removeprefix("in_"): torch.from_numpy(value) for name, value in data.items()}
        self.asked: dict[str, torch.Tensor] = {}
        self.graph = SimpleNamespace(shapes={"cls_prob": (1, 5), "bbox_pred": (1, 20)})

    def __call__(self, blobs: list[str], **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        self.asked = inputs
        return {name: self.blobs[name] for name in blobs}
