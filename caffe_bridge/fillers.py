"""Caffe's fillers: the first values of parameters and of DummyData blobs (include/caffe/filler.hpp)."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from typing import Any

import torch

from caffe_bridge import randomness, schema
from caffe_bridge.errors import LayerError

Filler = Callable[[torch.Tensor, Any, torch.Generator], torch.Tensor]


@torch.no_grad()
def fill(tensor: torch.Tensor, filler: Any, generator: torch.Generator | None = None) -> None:
    """Fill a tensor in place as a FillerParameter says.

    Numbers are drawn on the CPU, so a seed gives the same parameters on every device.

    Args:
        tensor: the blob, in Caffe's layout (outputs first).
        filler: FillerParameter; None fills with zeros.
        generator: a CPU generator; `randomness.generator("cpu")` without one.

    Raises:
        LayerError: an unknown filler, an empty blob, or numbers the filler does not take.
    """
    if filler is None:
        tensor.zero_()
        return
    check(filler)
    if not tensor.numel():
        raise LayerError(f"filler '{filler.type}' has nothing to fill: the blob's shape is {tuple(tensor.shape)}")
    values = torch.empty(tensor.shape, dtype=tensor.dtype)
    tensor.copy_(_FILLERS[filler.type](values, filler, generator or randomness.generator("cpu")))


def check(filler: Any) -> None:
    """Raise LayerError unless a FillerParameter names a filler and fits it, whatever the blob."""
    if filler.type not in _FILLERS:
        near = difflib.get_close_matches(filler.type, _FILLERS, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(_FILLERS))}"
        raise LayerError(f"unknown filler '{filler.type}'; {hint}")
    if filler.sparse < -1 or (filler.sparse != -1 and filler.type != "gaussian"):
        raise LayerError(f"filler '{filler.type}' does not take sparse: {filler.sparse}")


def _constant(values: torch.Tensor, filler: Any, generator: torch.Generator) -> torch.Tensor:
    return values.fill_(filler.value)


def _uniform(values: torch.Tensor, filler: Any, generator: torch.Generator) -> torch.Tensor:
    if not filler.min <= filler.max:
        raise LayerError(f"filler 'uniform' needs min <= max, not {filler.min:g} and {filler.max:g}")
    return values.uniform_(filler.min, filler.max, generator=generator)


def _gaussian(values: torch.Tensor, filler: Any, generator: torch.Generator) -> torch.Tensor:
    """N(mean, std^2); with `sparse`, each value is kept with probability sparse / outputs."""
    if not filler.std > 0:
        raise LayerError(f"filler 'gaussian' needs a std above 0, not {filler.std:g}")
    values.normal_(filler.mean, filler.std, generator=generator)
    if filler.sparse < 0:
        return values
    outputs = values.shape[0] if values.ndim else 0
    if filler.sparse > outputs:
        raise LayerError(f"filler 'gaussian': sparse: {filler.sparse} is more than the blob's {outputs} outputs")
    return values.mul_(torch.empty_like(values).bernoulli_(filler.sparse / outputs, generator=generator))


def _positive_unitball(values: torch.Tensor, filler: Any, generator: torch.Generator) -> torch.Tensor:
    """U(0, 1), then every output's values divided by their sum."""
    if not values.ndim:
        raise LayerError("filler 'positive_unitball' needs a blob with at least one axis")
    rows = values.uniform_(0, 1, generator=generator).view(values.shape[0], -1)
    return (rows / rows.sum(1, keepdim=True)).view_as(values)


def _xavier(values: torch.Tensor, filler: Any, generator: torch.Generator) -> torch.Tensor:
    """U(-a, a) with a = sqrt(3 / n) (Glorot and Bengio, 2010)."""
    bound = math.sqrt(3 / _fan(values, filler))
    return values.uniform_(-bound, bound, generator=generator)


def _msra(values: torch.Tensor, filler: Any, generator: torch.Generator) -> torch.Tensor:
    """N(0, 2 / n) (He et al., 2015)."""
    return values.normal_(0, math.sqrt(2 / _fan(values, filler)), generator=generator)


def _fan(values: torch.Tensor, filler: Any) -> float:
    """Caffe's n of a blob (num, a, b, c): a*b*c going in, num*b*c going out, or their mean."""
    if not values.ndim:
        raise LayerError(f"filler '{filler.type}' needs a blob with at least one axis")
    fan_in = values.numel() // values.shape[0]
    fan_out = values.numel() // values.shape[1] if values.ndim > 1 else values.numel()
    if filler.variance_norm == schema.FillerParameter.AVERAGE:
        return (fan_in + fan_out) / 2
    return fan_out if filler.variance_norm == schema.FillerParameter.FAN_OUT else fan_in


def _bilinear(values: torch.Tensor, filler: Any, generator: torch.Generator) -> torch.Tensor:
    """The kernel of a deconvolution that upsamples by bilinear interpolation, in every channel alike."""
    if values.ndim != 4 or values.shape[2] != values.shape[3]:
        raise LayerError(f"filler 'bilinear' fills square 4-axis kernels, not shape {tuple(values.shape)}")
    size = values.shape[3]
    factor = math.ceil(size / 2)
    centre = (size - 1) / (2 * factor)
    line = 1 - (torch.arange(size, dtype=values.dtype) / factor - centre).abs()
    return values.copy_(line[:, None] * line)


_FILLERS: dict[str, Filler] = {
    "constant": _constant,
    "uniform": _uniform,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
}
