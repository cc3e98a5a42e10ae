"""Make the weights MNC and CFM start from, VGG16.mask.caffemodel, of VGG-16 from Caffe or torchvision."""

from __future__ import annotations

import argparse
import os
import sys

from caffe_bridge.cli import run
from caffe_bridge.config import cfg

EPILOG = """\
The result has fc6 and fc7 also as fc6_mask and fc7_mask, the hidden layers of the mask branch. torchvision's weights
(vgg16-*.pth, or the same as .safetensors) are changed to take what Caffe's nets are fed: blue, green, red, from 0 to
255, less a mean. They then compute the same, but for the border of the image, which sees the mean as padding.
"""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="VGG-16: a .caffemodel, .h5, .pth or .safetensors")
    parser.add_argument("destination", help="file to write: a .caffemodel, .h5, .safetensors or .pth")
    parser.add_argument(
        "--mean",
        nargs=3,
        type=float,
        default=cfg.PIXEL_MEANS.ravel().tolist(),
        metavar=("B", "G", "R"),
        help="with torchvision's weights: the mean that images will lack (default: MNC's, %(default)s)",
    )
    parser.add_argument("--plain", action="store_true", help="leave the mask branch's layers out")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when the file is written; raises CaffeError for files that cannot be used."""
    args = parse_args(argv)

    from caffe_bridge.convert.formats import find_writer
    from caffe_bridge.convert.model import count_blobs
    from caffe_bridge.convert.vgg16 import read_vgg16, with_mask_branch

    write = find_writer(args.destination)
    model = read_vgg16(args.source, args.mean)
    if not args.plain:
        model = with_mask_branch(model)
    write(args.destination, model)
    size = os.path.getsize(args.destination)
    print(f"{args.destination}: {count_blobs(model.layers)} blobs of {len(model.layers)} layers, {size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
