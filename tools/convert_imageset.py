"""Store the images of a list in an LMDB or LevelDB of Datum records, as Caffe's convert_imageset."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from caffe_bridge.cli import run
from caffe_bridge.errors import CaffeError, LayerError


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", metavar="ROOTFOLDER/", help="is put before every name of the list as it stands")
    parser.add_argument("list", metavar="LISTFILE", help="lines of an image's file name, a space and its label")
    parser.add_argument("database", metavar="DB_NAME", help="folder to make")
    parser.add_argument("--gray", "-gray", action="store_true", help="store one channel")
    parser.add_argument("--shuffle", "-shuffle", action="store_true", help="store the images in random order")
    parser.add_argument(
        "--backend", "-backend", choices=("lmdb", "leveldb"), default="lmdb", help="kind of database (default: lmdb)"
    )
    parser.add_argument(
        "--resize_width", "-resize_width", type=int, default=0, help="resize to this many pixels; needs --resize_height"
    )
    parser.add_argument(
        "--resize_height",
        "-resize_height",
        type=int,
        default=0,
        help="resize to this many pixels; needs --resize_width",
    )
    parser.add_argument("--check_size", "-check_size", action="store_true", help="refuse images of different sizes")
    parser.add_argument("--encoded", "-encoded", action="store_true", help="store files as they are, not pixels")
    parser.add_argument("--encode_type", "-encode_type", default="", help="png, jpg, ...: store files of this type")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Returns 0. An image that cannot be read is left out, with a line on stderr.

    Raises CaffeError when nothing can be stored, or sizes differ under --check_size.
    """
    args = parse_args(argv)
    from caffe_bridge.database import DatabaseWriter
    from caffe_bridge.images import read_image
    from caffe_bridge.listing import read_image_list
    from caffe_bridge.stream import Stream

    if (args.resize_width > 0) != (args.resize_height > 0):
        raise CaffeError("--resize_width and --resize_height must be given together")
    entries = read_image_list(args.list)
    if args.shuffle:
        entries = [entries[i] for i in Stream().permutation(len(entries)).tolist()]
    shape: tuple[int, ...] | None = None
    stored = 0
    with DatabaseWriter(args.database, args.backend.upper()) as database:
        for i, (name, label) in enumerate(entries):
            try:
                image = read_image(args.root + name, args.resize_height, args.resize_width, not args.gray)
            except LayerError as error:
                print(f"left out: {error}", file=sys.stderr)
                continue
            shape = shape or image.shape
            if args.check_size and image.shape != shape:
                raise CaffeError(f"image {args.root}{name}: has shape {image.shape}, those before it {shape}")
            datum = _datum(args, name, image, label)
            database.put(f"{i:08d}_{name}".encode("utf-8", "surrogateescape"), datum.SerializeToString())
            stored += 1
    if not stored:
        raise CaffeError(f"{args.list}: no image could be read")
    print(f"{args.database}: {stored} of {len(entries)} images")
    return 0


def _datum(args: argparse.Namespace, name: str, image: Any, label: int) -> Any:
    from caffe_bridge import schema
    from caffe_bridge.datum import make_datum
    from caffe_bridge.images import encode_image, read_bytes

    extension = name.rpartition(".")[2].lower()
    kind = args.encode_type.lower() or (extension if args.encoded else "")
    if not kind:
        return make_datum(image, label)
    as_it_is = args.resize_width <= 0 and kind == ("jpg" if kind == "jpg" and extension == "jpeg" else extension)
    data = read_bytes(args.root + name) if as_it_is else encode_image(image, kind, f"image {args.root}{name}")
    return schema.Datum(data=data, label=label, encoded=True)


if __name__ == "__main__":
    sys.exit(run(main))
