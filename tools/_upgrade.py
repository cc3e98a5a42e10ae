"""What the verbs share that rewrite files of older formats."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

from caffe_bridge import log

logger = logging.getLogger("caffe_bridge")


def main(
    argv: list[str] | None, doc: str | None, kind: str, what: str, upgrade: Callable[[bytes, str], tuple[bool, bytes]]
) -> int:
    """The verb's entry point; returns the exit status.

    Args:
        argv: its arguments.
        doc: what it does, for its help.
        kind: of file, for its help.
        what: what it says it wrote.
        upgrade: from a file's bytes and, for errors, its name, whether it was of an older format, and today's bytes.
    """
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("source", help=f"{kind} to read")
    parser.add_argument("destination", help=f"{kind} to write")
    arguments = parser.parse_args(argv)
    log.show()
    older, data = upgrade(Path(arguments.source).read_bytes(), arguments.source)
    if not older:
        logger.warning("File already in latest proto format: %s", arguments.source)
    Path(arguments.destination).write_bytes(data)
    logger.info("Wrote upgraded %s to %s", what, arguments.destination)
    return 0
