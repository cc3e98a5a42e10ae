"""Rewrite a net prototxt of an older format (V0, V1, input fields) in today's."""

from __future__ import annotations

import sys

from caffe_bridge.cli import run
from caffe_bridge.tools import _upgrade


def upgraded(data: bytes, name: str) -> tuple[bool, bytes]:
    """Whether a net prototxt was of an older format, and today's."""
    from caffe_bridge import schema, text_format
    from caffe_bridge.upgrade import upgrade_net

    net = schema.NetParameter()
    lines = text_format.parse(data, net, name)
    older = upgrade_net(net, name, lines)
    return bool(older), text_format.format(net).encode()


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return _upgrade.main(argv, __doc__, "prototxt", "NetParameter text proto", upgraded)


if __name__ == "__main__":
    sys.exit(run(main))
