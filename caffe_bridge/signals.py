"""Ctrl-C and hang-ups as requests to a solver: stop, snapshot, or nothing."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from caffe_bridge.errors import CaffeError
from caffe_bridge.solver_loop import Requests

EFFECTS = ("snapshot", "stop", "none")


@contextlib.contextmanager
def requests(sigint: str = "stop", sighup: str = "snapshot") -> Iterator[Requests]:
    """Catch SIGINT and SIGHUP inside the `with` block, to be used as a solver's `requests`.

        with signals.requests() as solver.requests:
            solver.solve()

    The function this yields returns what the signals since its last call ask for ("snapshot" or "stop"), or None; a
    hang-up comes before an interrupt. Afterwards the handlers are what they were. Works in the main thread only.

    Raises:
        CaffeError: an effect is none of "snapshot", "stop" and "none".
    """
    effects: dict[int, str] = {}
    for name, effect in (("SIGHUP", sighup), ("SIGINT", sigint)):
        if effect not in EFFECTS:
            raise CaffeError(f"the effect of {name} is {', '.join(EFFECTS[:-1])} or {EFFECTS[-1]}, not '{effect}'")
        if hasattr(signal, name):  # Windows knows no hang-ups
            effects[getattr(signal, name)] = effect
    received: set[int] = set()

    def receive(number: int, frame: Any) -> None:
        received.add(number)

    def request() -> str | None:
        for number, effect in effects.items():
            if number in received:
                received.remove(number)
                return None if effect == "none" else effect
        return None

    previous = {number: signal.signal(number, receive) for number in effects}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
