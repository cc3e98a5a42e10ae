"""pycaffe's Timer."""

from __future__ import annotations

import time

from caffe_bridge.errors import CaffeError


class Timer:
    """A stopwatch: `start`, `stop`, then `ms`."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._seconds = 0.0

    def start(self) -> None:
        """Start from zero."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Stop.

        Raises:
            CaffeError: it was not started.
        """
        if self._started is None:
            raise CaffeError("Timer.stop without start")
        self._seconds, self._started = time.perf_counter() - self._started, None

    @property
    def ms(self) -> float:
        """Milliseconds from start to stop, or until now while it runs (which stops it, as in Caffe)."""
        if self._started is not None:
            self.stop()
        return 1000 * self._seconds
