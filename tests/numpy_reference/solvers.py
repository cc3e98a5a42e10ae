"""Caffe's update: clipping, division by iter_size, weight decay, and the rules of SGD and Adam."""

from __future__ import annotations

from typing import Any

import numpy as np

Blobs = dict[str, list[np.ndarray]]


def updates(
    parameters: Blobs, gradients: Blobs, history: dict[Any, tuple[np.ndarray, ...]], t: int, solver: dict[str, Any]
) -> Blobs:
    """What update number t (from 1) subtracts from weights and biases; `history` is brought up to date.

    Args:
        gradients: the sum over iter_size passes.
        solver: the fields of a SolverParameter by name; the message keeps them in single precision.
    """
    solver = {name: value if isinstance(value, str) else float(np.float32(value)) for name, value in solver.items()}
    norm = np.sqrt(sum((blob**2).sum() for blobs in gradients.values() for blob in blobs))
    limit = solver.get("clip_gradients", -1)
    scale = limit / norm if 0 <= limit < norm else 1
    result: Blobs = {}
    for name, blobs in gradients.items():
        result[name] = []
        for i, blob in enumerate(blobs):
            gradient = blob * scale / solver.get("iter_size", 1) + solver["weight_decay"] * parameters[name][i]
            rate = solver["base_lr"] * (1, 2)[i]  # lr_mult
            if solver["type"] == "SGD":
                (momentum,) = history[name, i]
                momentum = solver["momentum"] * momentum + rate * gradient
                history[name, i] = (momentum,)
                result[name].append(momentum)
            else:
                history[name, i] = mean, square = _moments(gradient, *history[name, i], solver)
                correction = np.sqrt(1 - solver["momentum2"] ** t) / (1 - solver["momentum"] ** t)
                result[name].append(rate * correction * mean / (np.sqrt(square) + 1e-8))
    return result


def _moments(
    gradient: np.ndarray, mean: np.ndarray, square: np.ndarray, solver: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    first, second = solver["momentum"], solver["momentum2"]
    return first * mean + (1 - first) * gradient, second * square + (1 - second) * gradient**2
