"""Draw a net's layers and blobs as a graph (needs pydot and Graphviz)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from caffe_bridge.cli import run

PHASES = {"TRAIN": 0, "TEST": 1, "ALL": None}


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input_net_proto_file", help="net prototxt")
    parser.add_argument("output_image_file", help="picture to write; its ending says which kind, .raw is Graphviz text")
    parser.add_argument("--rankdir", default="LR", help="direction: LR, RL, TB (top to bottom) or BT (default LR)")
    parser.add_argument("--phase", default="ALL", choices=PHASES, help="which layers to draw (default ALL)")
    parser.add_argument("--display_lrm", action="store_true", help="show learning rate multipliers")
    arguments = parser.parse_args(argv)

    from caffe_bridge import schema, text_format
    from caffe_bridge.pycaffe import draw
    from caffe_bridge.upgrade import upgrade_net

    path = arguments.input_net_proto_file
    net = schema.NetParameter()
    lines = text_format.parse(Path(path).read_bytes(), net, path)
    upgrade_net(net, path, lines)
    print(f"Drawing net to {arguments.output_image_file}")
    draw.draw_net_to_file(
        net, arguments.output_image_file, arguments.rankdir, PHASES[arguments.phase], arguments.display_lrm
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
