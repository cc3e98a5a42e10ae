"""How a function is made the reader of operators of torch's namespace aten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Converter = Callable[..., Any]

CONVERTERS: dict[str, Converter] = {}
"""Operator of the namespace aten, whatever its overload, to its function, which gets the builder and the arguments."""


def converts(*operators: str) -> Callable[[Converter], Converter]:
    """Function decorator: the function reads these operators."""

    def add(function: Converter) -> Converter:
        CONVERTERS.update(dict.fromkeys(operators, function))
        return function

    return add


def several(value: Any, count: int) -> tuple[int, ...]:
    """One number for all axes, or one for each."""
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * count if len(values) == 1 else values


def leaves(found: Any) -> list[Any]:
    """What an argument is made of: itself, or what is in it and in its lists."""
    return [leaf for part in found for leaf in leaves(part)] if isinstance(found, (list, tuple)) else [found]
