"""Places of scored rows within groups, without a loop over the groups."""

from __future__ import annotations

import torch


def by_group(groups: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """The order [n] that lists rows by rising group [n] and within it by falling score [n]; ties keep their order."""
    order = scores.argsort(descending=True, stable=True)
    return order[groups[order].argsort(stable=True)]


def places(groups: torch.Tensor) -> torch.Tensor:
    """Place, from 0, of each row within its group; the groups [n] are in rising order."""
    groups = groups.contiguous()
    return torch.arange(len(groups), device=groups.device) - torch.searchsorted(groups, groups)
