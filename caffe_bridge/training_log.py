"""Reading what a training logged, Caffe's own logs included: outputs of the train and test nets by iteration.

Rows are those of BVLC's parse_log.py: each has NumIters, Seconds since the line "Solving", the LearningRate
logged last, and one column for every output blob.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from caffe_bridge.errors import CaffeError

Row = dict[str, float]

_STAMP = re.compile(r"[IWEF](\d\d)(\d\d) (\d\d):(\d\d):(\d\d)\.(\d{6})")
_ITERATION = re.compile(r"Iteration (\d+)")
_LOSS = re.compile(r"Iteration \d+.*, loss = (\S+)")
_RATE = re.compile(r"lr = (\S+)")
_OUTPUT = re.compile(r"(Train|Test) net output #(\d+): (\S+) = (\S+)( \(\* )?")


@dataclass
class TrainingLog:
    """What a log says.

    Attributes:
        train, test: one row for every time outputs were logged.
        losses: iteration, seconds and smoothed loss of every "Iteration N, loss = X".
        rates: iteration, seconds and learning rate of every "Iteration N, lr = X".
        loss_names: the output blobs that are losses.
    """

    train: list[Row] = field(default_factory=list)
    test: list[Row] = field(default_factory=list)
    losses: list[tuple[float, float, float]] = field(default_factory=list)
    rates: list[tuple[float, float, float]] = field(default_factory=list)
    loss_names: set[str] = field(default_factory=set)


class _Clock:
    """Seconds since the start of a log, whose lines name no year."""

    def __init__(self, year: int):
        self._year = year
        self._last: datetime | None = None
        self._start: datetime | None = None

    def seconds(self, line: str) -> float | None:
        """The time of a line; None if it has none."""
        stamp = _STAMP.match(line)
        if stamp is None:
            return None
        try:
            month, day, hour, minute, second, micro = map(int, stamp.groups())
            when = datetime(self._year, month, day, hour, minute, second, micro)
            if self._last and when.month < self._last.month:
                self._year += 1
                when = when.replace(year=self._year)
        except ValueError:
            return None
        self._last = when
        if self._start is None and "Solving" in line:
            self._start = when
        return (when - self._start).total_seconds() if self._start else math.nan


def read(path: str | Path) -> TrainingLog:
    """Read a log. A line without a time stamp, as of anything else that printed there, is passed over.

    Raises:
        CaffeError: the file cannot be read, or nothing in it says that a training started.
    """
    try:
        year = datetime.fromtimestamp(os.path.getmtime(path)).year
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise CaffeError(f"{path}: cannot be read: {error.strerror}") from error
    if not any("Solving" in line and _STAMP.match(line) for line in lines):
        raise CaffeError(f"{path}: no line says 'Solving NAME'; this is no log of a training")
    found, clock = TrainingLog(), _Clock(year)
    reader = _Reader(found)
    for line in lines:
        seconds = clock.seconds(line)
        if seconds is not None and not math.isnan(seconds):
            reader.add(line, seconds)
    for rows in (found.train, found.test):
        if len(rows) > 1:  # the first outputs are logged before the first learning rate
            rows[0]["LearningRate"] = rows[1]["LearningRate"]
    return found


class _Reader:
    def __init__(self, log: TrainingLog):
        self._log = log
        self._iteration = math.nan
        self._rate = math.nan
        self._last_output = {"Train": -1, "Test": -1}

    def add(self, line: str, seconds: float) -> None:
        """Take over what a line says."""
        if match := _ITERATION.search(line):
            self._iteration = float(match[1])
        if math.isnan(self._iteration):
            return
        if (match := _RATE.search(line)) and (value := _number(match[1])) is not None:
            self._rate = value
            self._log.rates.append((self._iteration, seconds, value))
        if (match := _LOSS.search(line)) and (value := _number(match[1])) is not None:
            self._log.losses.append((self._iteration, seconds, value))
        if (match := _OUTPUT.search(line)) and (value := _number(match[4])) is not None:
            self._add_output(match[1], int(match[2]), match[3], value, seconds)
            if match[5]:
                self._log.loss_names.add(match[3])

    def _add_output(self, kind: str, number: int, name: str, value: float, seconds: float) -> None:
        """Outputs are numbered from 0 each time they are logged; of several values of a blob the last is kept."""
        rows = self._log.train if kind == "Train" else self._log.test
        if not rows or rows[-1]["NumIters"] != self._iteration or number <= self._last_output[kind]:
            rows.append({"NumIters": self._iteration, "Seconds": seconds, "LearningRate": self._rate})
        self._last_output[kind] = number
        rows[-1][name] = value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
