"""Pictures of numbers: the course of a training run, precision against recall. PNG files, without a display."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_bridge.errors import CaffeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from caffe_bridge.evaluation import Curve

ENTRIES = 16  # most lines a legend names
SMOOTHED = 10  # records
MEANING = ("loss", "accuracy", "learning rate")


def plot_training(path: str | Path, records: Sequence[Mapping[str, float]]) -> None:
    """Draw losses, accuracies and the learning rate of a run over its iterations.

    Args:
        records: by rising "iter", values by name; names with "accuracy" in them go to the second panel, "lr" to the
            third, those with "loss" to the first, others nowhere. All but "loss" and "lr" are values of one pass;
            their running mean is drawn.
    """
    figure = _figure(8.0, 9.0)
    panels: Sequence[Axes] = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 1))
    names = list(dict.fromkeys(name for record in records for name in record))
    for name in sorted(names, key=lambda name: name != "loss"):
        place = 2 if name == "lr" else 1 if "accuracy" in name else 0 if "loss" in name else None
        if place is None:
            continue
        points = [(record["iter"], record[name]) for record in records if name in record]
        x, y = np.array(points, np.float64).T
        main = name in ("loss", "lr")
        label = "total loss" if name == "loss" else name
        panels[place].plot(x, y if main else _smoothed(y), label=label, lw=2.0 if main else 1.0, zorder=2 + main)
    for panel, meaning in zip(panels, MEANING):
        panel.set_ylabel(meaning)
        panel.grid(alpha=0.3)
        if len(panel.lines) > 1:
            panel.legend(fontsize=7, ncols=2, loc="best")
    for panel in (panels[0], panels[2]):
        if len(panel.lines):
            panel.set_ylim(bottom=0)
    panels[1].set_ylim(0, 1.02)
    panels[2].set_xlabel("iteration")
    _save(figure, path)


def plot_precision(path: str | Path, curves: Mapping[str, Mapping[str, Curve]]) -> None:
    """Draw precision against recall, a panel for each title, a line for each class.

    Args:
        curves: title to class name to curve, such as {"masks, overlap 0.5": {"cat": curve, ...}}.
    """
    figure = _figure(6.0 * len(curves), 5.5)
    for panel, (title, of_classes) in zip(np.atleast_1d(figure.subplots(1, len(curves))), curves.items()):
        for name, curve in of_classes.items():
            precision = np.append(curve.precision[:1], curve.precision)
            recall = np.append(0, curve.recall)[: len(precision)]
            panel.plot(recall, precision, lw=1.2, label=f"{name} {100 * curve.ap:.1f}")
        mean = np.mean([curve.ap for curve in of_classes.values()]) if of_classes else 0.0
        panel.set(title=f"{title}: mean AP {100 * mean:.1f} %", xlabel="recall", ylabel="precision")
        panel.set(xlim=(0, 1.01), ylim=(0, 1.02))
        panel.grid(alpha=0.3)
        if 0 < len(panel.lines) <= 2 * ENTRIES:
            panel.legend(fontsize=7, ncols=1 + (len(panel.lines) - 1) // ENTRIES, loc="lower left")
    _save(figure, path)


def contact_sheet(pictures: Sequence[tuple[str, np.ndarray]], columns: int = 4, width: int = 320) -> np.ndarray:
    """Pictures side by side, each under its caption.

    Args:
        pictures: captions and images uint8 [H, W, 3], blue, green, red, of any sizes.
        columns: pictures in a row.
        width: pixels of each picture's frame; taller images are fitted into a square.

    Returns:
        uint8 [H, W, 3].

    Raises:
        CaffeError: there is no picture.
    """
    import cv2

    if not pictures:
        raise CaffeError("a sheet needs a picture")
    caption, frames = 18, []
    for text, image in pictures:
        scale = min(width / image.shape[1], width / image.shape[0])
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        frame = np.full((size[1] + caption, width, 3), 255, np.uint8)
        frame[caption:, : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        cv2.putText(frame, text, (2, caption - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        frames.append(frame)
    rows = []
    for start in range(0, len(frames), columns):
        row = frames[start : start + columns]
        height = max(frame.shape[0] for frame in row)
        sheet = np.full((height, width * columns, 3), 255, np.uint8)
        for i, frame in enumerate(row):
            sheet[: frame.shape[0], i * width : (i + 1) * width] = frame
        rows.append(sheet)
    return np.concatenate(rows)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """The mean of each value and those up to SMOOTHED before it."""
    sums = np.concatenate([[0.0], values.cumsum()])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - SMOOTHED, 0)
    return (sums[last] - sums[first]) / (last - first)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: str | Path) -> None:
    """Write the picture in one step: whoever looks at it meanwhile sees the last one."""
    temporary = Path(path).with_name(f".{Path(path).name}.partial.png")
    figure.savefig(temporary, dpi=100)
    os.replace(temporary, path)
