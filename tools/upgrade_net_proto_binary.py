"""Rewrite a .caffemodel of an older format (V0, V1, input fields) in today's, weights included."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from caffe_bridge import log
from caffe_bridge.cli import run
from caffe_bridge.errors import WeightsError

logger = logging.getLogger("caffe_bridge")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="binary NetParameter to read")
    parser.add_argument("destination", help="binary NetParameter to write")
    arguments = parser.parse_args(argv)

    from caffe_bridge import dialects
    from caffe_bridge.upgrade import upgrade_net

    log.show()
    try:
        net = dialects.parse_net(Path(arguments.source).read_bytes())
    except WeightsError as error:
        raise WeightsError(f"{arguments.source}: {error}") from error
    if not upgrade_net(net, arguments.source):
        logger.warning("File already in latest proto format: %s", arguments.source)
    Path(arguments.destination).write_bytes(dialects.serialize_net(net))
    logger.info("Wrote upgraded NetParameter binary proto to %s", arguments.destination)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
