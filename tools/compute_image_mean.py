"""Write the mean of a database's images as a .binaryproto, as Caffe's compute_image_mean."""

from __future__ import annotations

import argparse
import sys

import numpy as np

from caffe_bridge.cli import run
from caffe_bridge.errors import CaffeError


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", metavar="INPUT_DB", help="LMDB or LevelDB of Datum records, all of one size")
    parser.add_argument("output", metavar="OUTPUT_FILE", nargs="?", help="file to write; without it, only print")
    parser.add_argument(
        "--backend", "-backend", choices=("lmdb", "leveldb"), default="lmdb", help="kind of database (default: lmdb)"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Returns 0; prints the mean of every channel. Raises CaffeError for a database that cannot be averaged."""
    args = parse_args(argv)
    from caffe_bridge.database import Records
    from caffe_bridge.datum import datum_pixels, parse_datum
    from caffe_bridge.weights import write_blobproto

    records = Records(args.database, args.backend.upper())
    total: np.ndarray | None = None
    count = 0
    for key, value in records:
        name = records.describe(key)
        pixels = datum_pixels(parse_datum(value, name), name)
        if total is None:
            total = np.zeros(pixels.shape, np.float32)
        elif pixels.shape != total.shape:
            raise CaffeError(f"{name}: has shape {pixels.shape}, the images before it {total.shape}")
        total += pixels
        count += 1
    if total is None:
        raise CaffeError(f"{args.database}: holds no records")
    mean = total / np.float32(count)
    if args.output:
        write_blobproto(args.output, mean[None])
    for channel, values in enumerate(mean):
        print(f"mean_value channel [{channel}]: {values.mean(dtype=np.float64):g}")
    print(f"{args.output or args.database}: mean of {count} images, {mean.shape[1]}x{mean.shape[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
