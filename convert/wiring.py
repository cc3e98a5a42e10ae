"""Who makes and who reads each value of a net: a blob that layers change in place has several, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Place = tuple[int, int]
"""(layer, top), both as numbers."""


@dataclass(frozen=True)
class Wiring:
    """The values of a net whose layers stand in order.

    Attributes:
        sources: for each layer, the place that made each of its bottoms; None where no earlier layer does.
        readers: place to the numbers of the layers that read it, one entry for each bottom.
        last: blob to the place that made it last.
    """

    sources: list[list[Place | None]]
    readers: dict[Place, list[int]]
    last: dict[str, Place]

    def only_reader(self, place: Place) -> int | None:
        """The layer that reads a value, if it is the only one."""
        readers = self.readers[place]
        return readers[0] if len(readers) == 1 else None

    def unread(self) -> list[Place]:
        """The values that no layer reads, in order."""
        return [place for place, readers in self.readers.items() if not readers]


def wire(layers: Iterable[tuple[Sequence[str], Sequence[str]]]) -> Wiring:
    """The wiring of layers given as (bottoms, tops)."""
    wiring = Wiring([], {}, {})
    for i, (bottoms, tops) in enumerate(layers):
        sources = [wiring.last.get(bottom) for bottom in bottoms]
        wiring.sources.append(sources)
        for source in sources:
            if source is not None:
                wiring.readers[source].append(i)
        for j, top in enumerate(tops):
            wiring.readers[i, j] = []
            wiring.last[top] = (i, j)
    return wiring
