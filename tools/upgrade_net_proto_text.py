"""Rewrite a net prototxt of an older format (V0, V1, input fields) in today's."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from caffe_bridge import log
from caffe_bridge.cli import run

logger = logging.getLogger("caffe_bridge")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="prototxt to read")
    parser.add_argument("destination", help="prototxt to write")
    arguments = parser.parse_args(argv)

    from caffe_bridge import schema, text_format
    from caffe_bridge.upgrade import upgrade_net

    log.show()
    net = schema.NetParameter()
    lines = text_format.parse(Path(arguments.source).read_bytes(), net, arguments.source)
    if not upgrade_net(net, arguments.source, lines):
        logger.warning("File already in latest proto format: %s", arguments.source)
    Path(arguments.destination).write_text(text_format.format(net), encoding="utf-8")
    logger.info("Wrote upgraded NetParameter text proto to %s", arguments.destination)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
