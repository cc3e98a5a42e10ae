"""Caffe's six update rules as torch optimizers.

They follow Caffe's equations, not torch's: the learning rate is inside the momentum (SGD, Nesterov), delta is added
outside the square root (AdaGrad, RMSProp, Adam), weight decay is added to the gradient first. After `step()` a
parameter's `.grad` holds the update that was subtracted from it, as `diff` does in Caffe.

Parameter group options: `lr`, `lr_mult`, `weight_decay`, `decay_mult`, `regularization` ("L2" or "L1") and those of the
rule.
Source: BVLC Caffe, src/caffe/solvers; Kingma and Ba 2015 (Adam), Zeiler 2012 (AdaDelta), Duchi et al. 2011 (AdaGrad).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch

from caffe_bridge.errors import SolverError

Tensors = list[torch.Tensor]
REGULARIZATIONS = ("L2", "L1")


class CaffeOptimizer(torch.optim.Optimizer):
    """Base of Caffe's rules: regularisation, learning-rate multipliers, and history kept per parameter.

    `history` names the state tensors of a rule in the order Caffe stores them in a solver state. Parameters without a
    gradient are left alone.
    """

    history: ClassVar[tuple[str, ...]] = ("history",)

    def __init__(self, params: Iterable[Any], lr: float, **options: Any):
        defaults = {"lr": lr, "lr_mult": 1.0, "weight_decay": 0.0, "decay_mult": 1.0, "regularization": "L2"}
        super().__init__(params, {**defaults, **options})
        for group in self.param_groups:
            if group["regularization"] not in REGULARIZATIONS:
                raise SolverError(f"regularization is {' or '.join(REGULARIZATIONS)}, not {group['regularization']!r}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(group, params)
        return loss

    def _step_group(self, group: dict[str, Any], params: Tensors) -> None:
        gradients = [p.grad for p in params if p.grad is not None]
        decay = group["weight_decay"] * group["decay_mult"]
        if decay:
            penalty = torch._foreach_sign(params) if group["regularization"] == "L1" else params
            torch._foreach_add_(gradients, penalty, alpha=decay)
        histories = [self._histories(params, name) for name in self.history]
        self.update(gradients, group["lr"] * group["lr_mult"], group, *histories)
        torch._foreach_sub_(params, gradients)

    def _histories(self, params: Tensors, name: str) -> Tensors:
        for p in params:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p, memory_format=torch.contiguous_format)
        return [self.state[p][name] for p in params]

    def update(self, gradients: Tensors, rate: float, group: dict[str, Any], *histories: Tensors) -> None:
        """Turn gradients into the values to subtract, in place, and bring the histories up to date."""
        raise NotImplementedError


class SGD(CaffeOptimizer):
    """h = momentum h + lr g; the update is h."""

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.0, **options: Any):
        super().__init__(params, lr, momentum=momentum, **options)

    def update(self, gradients: Tensors, rate: float, group: dict[str, Any], *histories: Tensors) -> None:
        (history,) = histories
        torch._foreach_mul_(history, group["momentum"])
        torch._foreach_add_(history, gradients, alpha=rate)
        torch._foreach_copy_(gradients, history)


class Nesterov(SGD):
    """h' = momentum h + lr g; the update is (1 + momentum) h' - momentum h."""

    def update(self, gradients: Tensors, rate: float, group: dict[str, Any], *histories: Tensors) -> None:
        (history,) = histories
        momentum = group["momentum"]
        before = torch._foreach_mul(history, momentum)
        super().update(gradients, rate, group, history)
        torch._foreach_mul_(gradients, 1 + momentum)
        torch._foreach_sub_(gradients, before)


class AdaGrad(CaffeOptimizer):
    """h = h + g^2; the update is lr g / (sqrt(h) + delta)."""

    def __init__(self, params: Iterable[Any], lr: float, delta: float = 1e-8, **options: Any):
        super().__init__(params, lr, delta=delta, **options)

    def update(self, gradients: Tensors, rate: float, group: dict[str, Any], *histories: Tensors) -> None:
        (squares,) = histories
        torch._foreach_addcmul_(squares, gradients, gradients)
        _divide_by_root(gradients, squares, rate, group["delta"])


class RMSProp(CaffeOptimizer):
    """h = decay h + (1 - decay) g^2; the update is lr g / (sqrt(h) + delta)."""

    def __init__(self, params: Iterable[Any], lr: float, rms_decay: float = 0.99, delta: float = 1e-8, **options: Any):
        super().__init__(params, lr, rms_decay=rms_decay, delta=delta, **options)

    def update(self, gradients: Tensors, rate: float, group: dict[str, Any], *histories: Tensors) -> None:
        (squares,) = histories
        _average_squares(squares, gradients, group["rms_decay"])
        _divide_by_root(gradients, squares, rate, group["delta"])


class AdaDelta(CaffeOptimizer):
    """h = m h + (1 - m) g^2; u = g sqrt((k + delta) / (h + delta)); k = m k + (1 - m) u^2; the update is lr u."""

    history = ("squared_gradients", "squared_updates")

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.95, delta: float = 1e-6, **options: Any):
        super().__init__(params, lr, momentum=momentum, delta=delta, **options)

    def update(self, gradients: Tensors, rate: float, group: dict[str, Any], *histories: Tensors) -> None:
        squares, updates = histories
        _average_squares(squares, gradients, group["momentum"])
        ratio = torch._foreach_add(updates, group["delta"])
        torch._foreach_div_(ratio, torch._foreach_add(squares, group["delta"]))
        torch._foreach_sqrt_(ratio)
        torch._foreach_mul_(gradients, ratio)
        _average_squares(updates, gradients, group["momentum"])
        torch._foreach_mul_(gradients, rate)


class Adam(CaffeOptimizer):
    """m and v are running means of g and g^2; the update is lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + delta).

    `iteration` in a parameter group counts the updates made; t is one more.
    """

    history = ("first_moment", "second_moment")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        momentum2: float = 0.999,
        delta: float = 1e-8,
        **options: Any,
    ):
        super().__init__(params, lr, momentum=momentum, momentum2=momentum2, delta=delta, iteration=0, **options)

    def _step_group(self, group: dict[str, Any], params: Tensors) -> None:
        super()._step_group(group, params)
        group["iteration"] += 1

    def update(self, gradients: Tensors, rate: float, group: dict[str, Any], *histories: Tensors) -> None:
        means, squares = histories
        t = group["iteration"] + 1
        correction = math.sqrt(1 - group["momentum2"] ** t) / (1 - group["momentum"] ** t)
        torch._foreach_mul_(means, group["momentum"])
        torch._foreach_add_(means, gradients, alpha=1 - group["momentum"])
        _average_squares(squares, gradients, group["momentum2"])
        torch._foreach_copy_(gradients, means)
        _divide_by_root(gradients, squares, rate * correction, group["delta"])


def _average_squares(average: Tensors, values: Tensors, decay: float) -> None:
    torch._foreach_mul_(average, decay)
    torch._foreach_addcmul_(average, values, values, 1 - decay)


def _divide_by_root(values: Tensors, squares: Tensors, rate: float, delta: float) -> None:
    roots = torch._foreach_sqrt(squares)
    torch._foreach_add_(roots, delta)
    torch._foreach_div_(values, roots)
    torch._foreach_mul_(values, rate)


def clip_gradients(gradients: Sequence[torch.Tensor], limit: float) -> float:
    """Scale gradients in place so that their joint L2 norm is at most `limit`; returns the norm before.

    As in Caffe the limit applies to the sum over iter_size, before it is divided.
    """
    norm = float(torch.nn.utils.get_total_norm(gradients))
    if norm > limit:
        torch._foreach_mul_(list(gradients), limit / norm)
    return norm


RULES: dict[str, type[CaffeOptimizer]] = {
    "SGD": SGD,
    "Nesterov": Nesterov,
    "AdaGrad": AdaGrad,
    "RMSProp": RMSProp,
    "AdaDelta": AdaDelta,
    "Adam": Adam,
}
