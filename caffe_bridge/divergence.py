"""Noticing that a training run went wrong, and where."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from caffe_bridge.graph import Graph, Node
from caffe_bridge.net import Net

RUNAWAY = 1000.0  # a loss this many times that of the first passes is not coming back
FIRST_PASSES = 20


class LossWatch:
    """Whether a loss is still one that training can go on from.

    It is not when it is no finite number, or more than RUNAWAY times the mean of the first FIRST_PASSES losses (or
    than RUNAWAY, where they are below 1).
    """

    def __init__(self) -> None:
        self._first: list[float] = []

    def problem(self, loss: float) -> str | None:
        """What is wrong with this loss, or None; it counts as seen."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if self._first and loss > RUNAWAY * max(1.0, sum(self._first) / len(self._first)):
            return f"the loss ran away: {loss:.6g}, after {sum(self._first) / len(self._first):.6g} at first"
        if len(self._first) < FIRST_PASSES:
            self._first.append(loss)
        return None


class _Stop(Exception):
    """Ends a forward pass at the layer that is looked for."""


@torch.no_grad()
def failing_layer(net: Net, forward: Callable[[], Mapping[str, torch.Tensor]]) -> str:
    """The layer in which a failing pass first goes wrong, in words.

    Args:
        net: the net.
        forward: runs the net on what it failed on and returns its outputs, as `Net.forward` does.

    Returns:
        the first layer whose output is not finite, or else the loss layer that adds most.
    """
    found: list[str] = []

    def check(node: Node) -> Callable[[Any, Any, Any], None]:
        def hook(layer: Any, bottoms: Any, tops: Any) -> None:
            tensors = (tops,) if isinstance(tops, torch.Tensor) else tops
            wrong = [name for name, top in zip(node.tops, tensors) if not _finite(top)]
            if wrong:
                where = "the parameters" if not all(map(_finite, node.layer.blobs)) else "the values"
                found.append(f"{_label(node)} produces it: {where} of its blob '{wrong[0]}' are not finite")
                raise _Stop

        return hook

    hooks = [node.layer.register_forward_hook(check(node)) for node in net.graph.nodes]
    try:
        outputs = forward()
    except _Stop:
        return found[0].replace("the parameters of its blob", "its parameters, so its blob")
    finally:
        for hook in hooks:
            hook.remove()
    parts = [
        (float(weight * outputs[top].sum()), node)
        for node in net.graph.nodes
        for top, weight in zip(node.tops, node.loss_weights)
        if weight
    ]
    if not parts:
        return "no layer of the net has a loss"
    amount, node = max(parts, key=lambda part: part[0])
    return f"{_label(node)} produces most of it: {amount:.6g}"


def failing_gradient(graph: Graph) -> str | None:
    """The layer nearest to the losses with a parameter whose gradient is not finite, in words, or None.

    Backward passes go from the losses down, so that is where the trouble began.
    """
    gradients = [blob.grad for node in graph.nodes for blob in _parameters(node) if blob.grad is not None]
    if not gradients:
        return None
    if bool(torch.stack(torch._foreach_norm(gradients)).sum().isfinite()):
        return None
    for node in reversed(graph.nodes):
        for i, blob in enumerate(_parameters(node)):
            if blob.grad is not None and not _finite(blob.grad):
                return f"{_label(node)}: the gradient of its parameter {i} is not finite"
    return None  # all are finite: only the sum of their norms was not


def _parameters(node: Node) -> list[torch.nn.Parameter]:
    return [node.layer.blobs.parameter(i) for i in range(len(node.layer.blobs))]


def _label(node: Node) -> str:
    return f"layer '{node.name}' ({node.type}, {node.where})" if node.where else f"layer '{node.name}' ({node.type})"


def _finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all())
