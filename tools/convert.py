"""Convert weights between .caffemodel, .caffemodel.h5, .safetensors and torch state dicts (.pt, .pth)."""

from __future__ import annotations

import argparse
import os
import sys

from caffe_bridge.cli import run


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status. Raises CaffeError for files that cannot be converted."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="Extensions name the formats.")
    parser.add_argument("source", nargs="+", metavar="SRC", help="file to read: weights, and optionally a .prototxt")
    parser.add_argument("destination", metavar="DST", help="file to write")
    parser.add_argument(
        "--model",
        metavar="PROTOTXT",
        help="the net: its layer types, parameters, order and parameter sharing go into the result",
    )
    arguments = parser.parse_intermixed_args(argv)

    from caffe_bridge.convert.formats import convert
    from caffe_bridge.convert.model import count_blobs

    sources = [*arguments.source, *([arguments.model] if arguments.model else [])]
    model = convert(sources, arguments.destination)
    layers = {name: blobs for name, blobs in model.completed().items() if blobs}
    size = os.path.getsize(arguments.destination)
    print(f"{arguments.destination}: {count_blobs(layers)} blobs of {len(layers)} layers, {size:,} bytes")
    if left_out := model.left_out():
        print(f"left out, since the model has no such layers: {', '.join(left_out)}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
