"""Random numbers of one layer's own, and the order in which a data layer goes through its items.

Both say where they stand in JSON terms, so that a snapshot can hold it and a resumed run see the same items.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from caffe_bridge import randomness
from caffe_bridge.errors import LayerError


class Stream:
    """Random numbers that nobody else draws; one draw from `caffe_bridge.randomness` seeds them."""

    def __init__(self) -> None:
        seed = int(torch.randint(1 << 62, (), generator=randomness.generator()))
        self._generator = torch.Generator().manual_seed(seed)

    def below(self, limit: int) -> int:
        """A number from 0 to `limit` - 1, each as likely as the others."""
        return int(torch.randint(limit, (), generator=self._generator))

    def permutation(self, count: int) -> torch.Tensor:
        """The numbers 0 to `count` - 1 in random order (count,)."""
        return torch.randperm(count, generator=self._generator)

    def state(self) -> str:
        """Where the stream stands."""
        return base64.b64encode(self._generator.get_state().numpy().tobytes()).decode()

    def set_state(self, saved: str) -> None:
        """Return to where `state` was taken. Raises ValueError when `saved` is no such state."""
        try:
            position = torch.frombuffer(bytearray(base64.b64decode(saved)), dtype=torch.uint8)
            self._generator.set_state(position)
        except RuntimeError as error:
            raise ValueError("no state of a random stream") from error

    def __getstate__(self) -> str:
        return self.state()

    def __setstate__(self, saved: str) -> None:
        self._generator = torch.Generator()
        self.set_state(saved)


class EpochOrder:
    """Items 0 to count - 1, each once per epoch, round and round.

    Args:
        count: number of items, at least 1.
        stream: shuffles every epoch anew; None keeps the order. Must not be drawn from elsewhere.

    Attributes:
        position: how many items of this epoch are done.
    """

    def __init__(self, count: int, stream: Stream | None = None):
        self._stream = stream
        self.restart(count)

    def restart(self, count: int) -> None:
        """Begin a new epoch, of perhaps another number of items."""
        self.count, self.position = count, 0
        self._before = self._stream.state() if self._stream else None
        self._order = self._stream.permutation(count) if self._stream else None

    @property
    def current(self) -> int:
        """The item whose turn it is."""
        return self.position if self._order is None else int(self._order[self.position])

    def advance(self) -> bool:
        """Go on to the next item; returns whether a new epoch begins with it."""
        self.position += 1
        if self.position < self.count:
            return False
        self.restart(self.count)
        return True

    def state(self) -> dict[str, Any]:
        """Where it stands. The epoch's order is not part of it: the stream's state before the shuffle is."""
        return {"count": self.count, "position": self.position, "stream": self._before}

    def set_state(self, saved: Mapping[str, Any]) -> None:
        """Return to where `state` was taken. Raises ValueError when the number of items is another now."""
        count, position = int(saved["count"]), int(saved["position"])
        if count != self.count or not 0 <= position < count:
            raise ValueError(f"item {position} of {count} was next, there are {self.count} items now")
        if self._stream and saved["stream"]:
            self._stream.set_state(saved["stream"])
        self.restart(count)
        self.position = position


@contextlib.contextmanager
def restoring() -> Iterator[None]:
    """Whatever is wrong with a recorded position as a LayerError."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise LayerError(f"the snapshot's position in the data cannot be used: {error}") from error
