"""Rewrite a .caffemodel of an older format (V0, V1, input fields) in today's, weights included."""

from __future__ import annotations

import sys

from caffe_bridge.cli import run
from caffe_bridge.errors import WeightsError
from caffe_bridge.tools import _upgrade


def upgraded(data: bytes, name: str) -> tuple[bool, bytes]:
    """Whether a .caffemodel was of an older format, and today's. Raises WeightsError when it is none."""
    from caffe_bridge import dialects
    from caffe_bridge.upgrade import upgrade_net

    try:
        net = dialects.parse_net(data)
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}") from error
    older = upgrade_net(net, name)
    return bool(older), dialects.serialize_net(net)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return _upgrade.main(argv, __doc__, "binary NetParameter", "NetParameter binary proto", upgraded)


if __name__ == "__main__":
    sys.exit(run(main))
