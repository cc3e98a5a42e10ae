"""Input layers for nets that tests write."""

from __future__ import annotations

from collections.abc import Sequence


def input_layers(**shapes: Sequence[int]) -> str:
    """The prototxt of inputs, by their names."""
    return "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        f"{' '.join(f'dim: {dim}' for dim in shape)} }} }} }}\n"
        for name, shape in shapes.items()
    )


def numbered_inputs(*shapes: str) -> str:
    """The prototxt of inputs x0, x1, ... of shapes such as "2,3"."""
    return input_layers(**{f"x{i}": [int(dim) for dim in shape.split(",")] for i, shape in enumerate(shapes)})
