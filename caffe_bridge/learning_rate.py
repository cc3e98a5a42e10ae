"""Caffe's learning-rate policies."""

from __future__ import annotations

import math
from typing import Any

from caffe_bridge.errors import SolverError

POLICIES = ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid")


def learning_rate(param: Any, iteration: int, current_step: int = 0) -> tuple[float, int]:
    """The learning rate of an iteration and the step counter that belongs to it.

    Args:
        param: a SolverParameter.
        iteration: updates made so far.
        current_step: the counter of the last call; multistep moves it by at most one a call, as Caffe does.

    Raises:
        SolverError: an unknown lr_policy, or gamma or stepsize out of range for it.
    """
    base, gamma, policy = param.base_lr, param.gamma, param.lr_policy
    if policy not in POLICIES:
        raise SolverError(f"lr_policy '{policy}' is unknown; Caffe has {', '.join(POLICIES)}")
    if policy in ("step", "exp", "inv", "multistep", "sigmoid") and gamma < 0:
        raise SolverError(f"lr_policy '{policy}' needs gamma >= 0, not {gamma}")
    if policy in ("step", "sigmoid") and param.stepsize <= 0:
        raise SolverError(f"lr_policy '{policy}' needs stepsize > 0")
    if policy == "poly" and not _poly_is_defined(param, iteration):
        raise SolverError(f"lr_policy 'poly' ends at max_iter {param.max_iter}; iteration {iteration} has no rate")
    if policy == "step":
        current_step = iteration // param.stepsize
    elif policy == "multistep":
        if current_step < len(param.stepvalue) and iteration >= param.stepvalue[current_step]:
            current_step += 1
    factor = {
        "fixed": lambda: 1.0,
        "step": lambda: gamma**current_step,
        "exp": lambda: gamma**iteration,
        "inv": lambda: (1 + gamma * iteration) ** -param.power,
        "multistep": lambda: gamma**current_step,
        "poly": lambda: (1 - iteration / param.max_iter) ** param.power,
        "sigmoid": lambda: 1 / (1 + math.exp(-gamma * (iteration - param.stepsize))),
    }[policy]
    return base * factor(), current_step


def _poly_is_defined(param: Any, iteration: int) -> bool:
    """Whether (1 - iteration / max_iter) ^ power is a number; beyond max_iter it is for whole powers alone."""
    if param.max_iter <= 0:
        return False
    left = param.max_iter - iteration
    return left > 0 or (left == 0 and param.power >= 0) or (left < 0 and param.power == int(param.power))
