"""The random numbers of fillers, dropout and transforms: one torch generator per device, never a global one.

NumPy's legacy generator, which the samplers of MNC and Faster R-CNN draw from, is not touched here.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import torch

_generators: dict[str, torch.Generator] = {}
_seed = secrets.randbits(62)


def seed(value: int) -> None:
    """Restart every device's generator from `value`. Without a call, a process starts from the system's entropy."""
    global _seed
    _seed = int(value) % (1 << 62)
    _generators.clear()


def generator(device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of a device, made on first use. Devices of one kind draw different numbers from one seed."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    name = str(device)
    if name not in _generators:
        _generators[name] = torch.Generator(device).manual_seed(_seed + (device.index or 0))
    return _generators[name]


def state() -> dict[str, Any]:
    """Everything `set_state` needs to draw the same numbers again: the seed and each device's position."""
    return {"seed": _seed, "devices": {name: made.get_state() for name, made in _generators.items()}}


def set_state(saved: Mapping[str, Any]) -> None:
    """Return to where `state` was taken. Devices this machine lacks are passed over."""
    seed(saved["seed"])
    for name, position in saved["devices"].items():
        device = torch.device(name)
        if device.type != "cuda" or (device.index or 0) < torch.cuda.device_count():
            generator(device).set_state(position)
