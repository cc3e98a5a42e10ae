"""Which records of the data are this process's, where several solvers train one net together.

As in Caffe, record i of a source is that of solver i modulo their number, in TRAIN; in TEST every solver reads all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist

_chosen: dict[str, int] = {}


def solver_count() -> int:
    """The number of solvers: what `set_solver_count` said, else the processes of torch.distributed, else 1."""
    return _chosen.get("count", dist.get_world_size() if _together() else 1)


def solver_rank() -> int:
    """This solver's number from 0: what `set_solver_rank` said, else this process's in torch.distributed, else 0."""
    return _chosen.get("rank", dist.get_rank() if _together() else 0)


def set_solver_count(count: int) -> None:
    """Say how many solvers there are. Data layers that were made before follow, too."""
    _chosen["count"] = int(count)


def set_solver_rank(rank: int) -> None:
    """Say which of the solvers this one is, from 0."""
    _chosen["rank"] = int(rank)


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


class Turns:
    """Counts the records of one source.

    Args:
        phase: in TEST there is nothing to share.
    """

    def __init__(self, phase: str):
        self._shared = phase == "TRAIN"
        self._passed = 0

    def skip(self) -> int:
        """How many records others read before this solver's next one, which counts as read from now on."""
        others = (solver_rank() - self._passed) % max(solver_count(), 1) if self._shared else 0
        self._passed += others + 1
        return others

    def state(self) -> dict[str, Any]:
        """How many records all solvers have read."""
        return {"passed": self._passed}

    def set_state(self, saved: Mapping[str, Any]) -> None:
        """Return to where `state` was taken."""
        self._passed = int(saved["passed"])
