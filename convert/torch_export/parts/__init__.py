"""Modules and functions that converted nets take along where PyTorch has no layer that computes what Caffe's does.

Every file here stands alone: it imports torch and Python's own modules, and a part uses other parts by their bare
names. `source_of` writes out the parts a net uses, with all they need.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """A function or class of this package: its source and the names it mentions."""

    source: str
    names: frozenset[str]


@functools.cache
def parts() -> dict[str, Part]:
    """Every part by its name."""
    found: dict[str, Part] = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                source = ast.get_source_segment(text, node)
                assert source is not None
                names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
                found[node.name] = Part(source, frozenset(names))
    return found


def source_of(names: Iterable[str]) -> tuple[list[str], set[str]]:
    """The sources of parts and of all parts they use, used ones first; and the other names they mention."""
    known, done = parts(), dict[str, None]()

    def add(name: str) -> None:
        if name in known and name not in done:
            for other in sorted(known[name].names - {name}):
                add(other)
            done[name] = None

    for name in sorted(names):
        add(name)
    mentioned = set().union(*(known[name].names for name in done)) if done else set()
    return [known[name].source for name in done], mentioned - set(known)
