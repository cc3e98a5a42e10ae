"""What stands in the way of a conversion, collected so that everything is said at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from caffe_bridge.errors import CaffeError

SHOWN = 50


class Unsupported(CaffeError):
    """A node cannot be expressed in Caffe: why, and what to do instead. The node is added by `Problems`."""

    def __init__(self, message: str, suggestion: str = ""):
        super().__init__(f"{message}; {suggestion}" if suggestion else message)


class ConversionError(CaffeError):
    """A graph cannot be written as a Caffe net; lists each node that stands in the way, with its shapes.

    Attributes:
        problems: one sentence for each.
    """

    def __init__(self, source: str, problems: Sequence[str]):
        shown = list(problems[:SHOWN])
        if len(problems) > SHOWN:
            shown.append(f"and {len(problems) - SHOWN} more")
        count = "one thing stands" if len(problems) == 1 else f"{len(problems)} things stand"
        super().__init__(f"{source} cannot be written as a Caffe net: {count} in the way\n  " + "\n  ".join(shown))
        self.problems = list(problems)


@dataclass
class Problems:
    """The problems so far."""

    found: list[str] = field(default_factory=list)

    @contextmanager
    def at(self, origin: str, shapes: Sequence[Sequence[int]]) -> Iterator[None]:
        """Collect the Unsupported raised inside, with the node it concerns and the shapes of its inputs."""
        try:
            yield
        except Unsupported as error:
            read = ", ".join("(" + ", ".join(map(str, shape)) + ")" for shape in shapes)
            self.add(f"{origin}, inputs [{read}]: {error}")

    def add(self, sentence: str) -> None:
        """Add one, unless it is known."""
        if sentence not in self.found:
            self.found.append(sentence)

    def raise_any(self, source: str) -> None:
        """Raise ConversionError if there is a problem."""
        if self.found:
            raise ConversionError(source, self.found)
