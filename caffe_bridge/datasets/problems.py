"""What can be wrong with a data set, what is to be done about it, and a record of what was found."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from caffe_bridge.errors import CaffeError

KINDS = {
    "missing_image": "images that are absent or cannot be decoded",
    "bad_annotation": "annotations that are missing, empty or damaged",
    "unknown_class": "objects of a class that is not in the list",
    "box_outside": "boxes that leave their image",
    "mask_size": "masks of another size than their image",
    "empty_object": "objects without a pixel",
    "no_object": "images with no object to train on",
}
DEFAULTS = dict.fromkeys(KINDS, "refuse") | {"empty_object": "skip", "no_object": "skip"}
ACTIONS = dict.fromkeys(KINDS, ("skip", "refuse")) | {"box_outside": ("skip", "refuse", "clip")}
_NAMED = 5  # examples in a summary

FLAG: dict[str, Any] = {
    "action": "append",
    "default": [],
    "metavar": "KIND=ACTION",
    "help": f"what to do about a problem in the data set: skip or refuse {', '.join(KINDS)}; or box_outside=clip",
}
"""How the programs' flag --on is defined; `parse` reads it."""

logger = logging.getLogger(__name__)


class Problem(NamedTuple):
    """Something wrong: one of KINDS, and a sentence that names the image and what it is."""

    kind: str
    text: str


class DamagedError(CaffeError):
    """An image or an annotation cannot be used at all; `kind` is one of KINDS."""

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind


def policy(changes: Mapping[str, str] | None, defaults: Mapping[str, str] = DEFAULTS) -> dict[str, str]:
    """What to do about each kind of problem: the defaults with `changes`.

    "skip" leaves the object or the image out, "refuse" raises an error when everything has been read, and "clip" (for
    box_outside) moves the corners into the image.

    Raises:
        CaffeError: an unknown kind or action.
    """
    chosen = dict(defaults)
    for kind, action in (changes or {}).items():
        if kind not in KINDS:
            raise CaffeError(f"no problem is called {kind!r}; there are {', '.join(KINDS)}")
        if action not in ACTIONS[kind]:
            raise CaffeError(f"{kind} can be {' or '.join(ACTIONS[kind])}, not {action!r}")
        chosen[kind] = action
    return chosen


def parse(flags: Sequence[str]) -> dict[str, str]:
    """The policy that flags like "missing_image=skip" describe. Raises CaffeError for one that describes nothing."""
    chosen = {}
    for flag in flags:
        kind, sign, action = flag.partition("=")
        if not sign:
            raise CaffeError(f"--on {flag}: say what to do, as {kind if kind in KINDS else 'missing_image'}=skip")
        chosen[kind] = action
    policy(chosen)
    return chosen


def summary(name: str, problems: Iterable[Problem], actions: Mapping[str, str]) -> list[str]:
    """A line for each kind of problem found in data set `name`: how many, what was done, and the first few."""
    lines = []
    found = list(problems)
    for kind, meaning in KINDS.items():
        texts = [problem.text for problem in found if problem.kind == kind]
        if texts:
            more = f"; and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
            done = {"skip": "skipped", "clip": "clipped", "refuse": "refused"}[actions[kind]]
            lines.append(f"{name}: {kind} ({meaning}): {len(texts)} {done}: {'; '.join(texts[:_NAMED])}{more}")
    return lines


def settle(name: str, problems: Iterable[Problem], actions: Mapping[str, str]) -> None:
    """Log the problems found, or, when one is of a kind that is refused, raise.

    Raises:
        CaffeError: names and counts what is refused.
    """
    found = list(problems)
    refused = [problem for problem in found if actions[problem.kind] == "refuse"]
    if refused:
        kinds = sorted({problem.kind for problem in refused}, key=list(KINDS).index)
        advice = " ".join(f"--on {kind}=skip" for kind in kinds)
        lines = summary(name, refused, actions)
        raise CaffeError(f"{'; '.join(lines)} (to leave them out: {advice}, or a policy that says so)")
    for line in summary(name, found, actions):
        logger.warning(line)
