"""Log lines as Caffe prints them; shown by programs, never by importing the library.

Everything is logged to `logging.getLogger("caffe_bridge")`, to be handled as any other logger. Caffe's own programs
print to stderr, and so do ours, which call `show`:

    I1123 15:04:05.123456 12345 solver_loop.py:210] Iteration 100, loss = 0.5

(severity I, W, E or F; month and day; time; thread; source line). The environment variable GLOG_minloglevel hides
what is less severe: 0 nothing, 1 information, 2 warnings too, 3 errors too.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from datetime import datetime

LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


class GlogFormatter(logging.Formatter):
    """Formats a record as glog does."""

    def format(self, record: logging.LogRecord) -> str:
        severity = "I" if record.levelno < logging.WARNING else record.levelname[0].replace("C", "F")
        when = datetime.fromtimestamp(record.created).strftime("%m%d %H:%M:%S.%f")
        thread = threading.get_native_id() if record.thread == threading.get_ident() else record.thread
        return f"{severity}{when} {thread:>5} {record.filename}:{record.lineno}] {record.getMessage()}"


class StderrHandler(logging.StreamHandler):
    """Writes to whatever sys.stderr is at the time."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(GlogFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def minimum_level() -> int:
    """What GLOG_minloglevel asks for, 0 to 3; 0 if it is not set or no number."""
    text = os.environ.get("GLOG_minloglevel", "")
    return min(max(int(text), 0), 3) if text.lstrip("-").isdecimal() else 0


def set_level(level: int) -> None:
    """Hide messages below a severity: 0 information, 1 warning, 2 error, 3 fatal."""
    logging.getLogger("caffe_bridge").setLevel(LEVELS[min(max(level, 0), 3)])


def show(level: int | None = None) -> None:
    """Print log messages to stderr from now on, from `level` (by default GLOG_minloglevel) upwards."""
    set_level(minimum_level() if level is None else level)
    logger = logging.getLogger("caffe_bridge")
    if not any(isinstance(handler, StderrHandler) for handler in logger.handlers):
        logger.addHandler(StderrHandler())
