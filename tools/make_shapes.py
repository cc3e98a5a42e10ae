"""Make a data set of textured shapes with instance masks, in SBD's layout, to train and test on."""

from __future__ import annotations

import argparse
import os
import re
import sys

from caffe_bridge.cli import run
from caffe_bridge.errors import CaffeError


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to make, such as data/shapes")
    parser.add_argument("--train", type=_count, default=1500, metavar="N", help="training images (1500)")
    parser.add_argument("--val", type=_count, default=200, metavar="N", help="validation images (200)")
    parser.add_argument("--size", type=_size, default=(160, 208), metavar="HxW", help="pixels (160x208)")
    parser.add_argument(
        "--classes",
        nargs="+",
        default=["disk", "square", "triangle", "star"],
        metavar="CLASS",
        help="of disk, square, triangle, star, cross, ring, pentagon, crescent (the first four)",
    )
    parser.add_argument(
        "--objects", nargs=2, type=int, default=(1, 4), metavar=("MIN", "MAX"), help="in an image (1 4)"
    )
    parser.add_argument("--seed", type=_count, default=0, help="another one makes other images (0)")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    return parser.parse_args(argv)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 31:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to {(1 << 31) - 1}")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no height and width such as 160x208")
    return int(found[1]), int(found[2])


def main(argv: list[str] | None = None) -> int:
    """Returns 0. Raises CaffeError when the set cannot be made as asked."""
    args = parse_args(argv)
    from caffe_bridge.datasets import shapes

    if os.path.isdir(args.out) and os.listdir(args.out) and not args.overwrite:
        raise CaffeError(f"{args.out}: is not empty; choose another folder, or pass --overwrite")
    shapes.make(args.out, args.train, args.val, args.size, args.classes, args.seed, tuple(args.objects))
    print(f"{args.out}: {args.train} training and {args.val} validation images of {len(args.classes)} classes")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
