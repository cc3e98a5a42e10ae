"""Plot losses, learning rates or accuracies of training logs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from caffe_bridge.cli import run
from caffe_bridge.errors import CaffeError
from caffe_bridge.training_log import Row, TrainingLog, read

VALUES = ("Test accuracy", "Test loss", "Train learning rate", "Train loss")
CHARTS = [(value, axis) for value in VALUES for axis in ("Iters", "Seconds")]
MARKERS = "os^vD<>pP*X"


def series(log: TrainingLog, value: str, axis: str) -> tuple[list[float], list[float]]:
    """The points of a chart; of several test outputs the first that is a loss, or that is none."""
    if value.startswith("Train"):
        points = log.losses if value == "Train loss" else log.rates
        return [point[axis == "Seconds"] for point in points], [point[2] for point in points]
    column = _column(log, value == "Test loss")
    rows: list[Row] = [row for row in log.test if column in row]
    return [row["NumIters" if axis == "Iters" else "Seconds"] for row in rows], [row[column] for row in rows]


def _column(log: TrainingLog, loss: bool) -> str:
    for row in log.test:
        for name in list(row)[3:]:
            if (name in log.loss_names) == loss:
                return name
    return ""


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    charts = "\n".join(f"  {i}: {value}  vs. {axis}" for i, (value, axis) in enumerate(CHARTS))
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"chart types:\n{charts}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chart_type", type=int, choices=range(len(CHARTS)), metavar="CHART", help="number, see below")
    parser.add_argument("picture", metavar="PNG", help="picture to write")
    parser.add_argument("logs", metavar="LOG", nargs="+", help="logs of trainings")
    arguments = parser.parse_args(argv)

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not arguments.picture.endswith(".png"):
        raise CaffeError(f"the picture's name ends in .png, unlike '{arguments.picture}'")
    value, axis = CHARTS[arguments.chart_type]
    figure = Figure()
    axes = figure.add_subplot()
    for i, path in enumerate(arguments.logs):
        x, y = series(read(path), value, axis)
        if not x:
            raise CaffeError(f"{path}: the log has no {value.lower()}")
        axes.plot(x, y, label=Path(path).stem, marker=MARKERS[i % len(MARKERS)], linewidth=0.75)
    axes.legend(loc="lower right" if value == "Test accuracy" else "upper right")
    axes.set(title=f"{value}  vs. {axis}", xlabel=axis, ylabel=value)
    if not os.path.isdir(os.path.dirname(arguments.picture) or "."):
        raise CaffeError(f"{arguments.picture}: there is no such folder")
    FigureCanvasAgg(figure).print_png(arguments.picture)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
