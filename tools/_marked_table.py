"""Tables in documents that are written by a verb, between two lines that mark them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from caffe_bridge.errors import CaffeError

ROOT = Path(__file__).resolve().parent.parent
END = "<!-- end -->\n"


def begin(verb: str) -> str:
    """The line in front of the table that a verb writes."""
    return f"<!-- begin: caffe-bridge {verb} -->\n"


def renewed(text: str, verb: str, table: str) -> str:
    """A document with a table between its marks. Raises CaffeError where the marks are missing."""
    before, start, rest = text.partition(begin(verb))
    _, end, after = rest.partition(END)
    if not start or not end:
        marks = f"{begin(verb).strip()} and {END.strip()}"
        raise CaffeError(f"the document has no lines {marks} to put the table between")
    return f"{before}{start}{table}{end}{after}"


def main(argv: list[str] | None, verb: str, description: str | None, table: Callable[[], str]) -> int:
    """The verb: writes the table into docs/conversion.md; returns 1 when `--check` finds it out of step, else 0."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the file is out of step")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "conversion.md", help="default: docs/conversion.md")
    args = parser.parse_args(argv)
    text = args.out.read_text(encoding="utf-8")
    if not args.check:
        args.out.write_text(renewed(text, verb, table()), encoding="utf-8")
    elif text != renewed(text, verb, table()):
        print(f"{args.out} is out of step; run `caffe-bridge {verb}`", file=sys.stderr)
        return 1
    return 0
