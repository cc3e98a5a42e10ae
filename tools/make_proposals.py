"""Make mask proposals for images that have none, in the files that MCG publishes.

They take MCG's place for CFM: `caffe-bridge prepare-mcg-maskdb --input OUT` goes on from here. Started again, it goes
on where it was stopped. The status is 1 when an image could not be done. Needs scikit-image:
pip install caffe-bridge[proposals]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from caffe_bridge import image_jobs, mcg, mcg_proposals
from caffe_bridge.cli import documented_parser, run
from caffe_bridge.datasets import get_imdb
from caffe_bridge.errors import CaffeError
from caffe_bridge.tools.demo import find_images, read_image


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = documented_parser(__doc__)
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--db", metavar="NAME", help="the images of this data set, such as shapes_train")
    images.add_argument("--images", nargs="+", metavar="PATH", help="image files, folders of them, or glob patterns")
    parser.add_argument("--root", metavar="DIR", help="the data set's folder, where it is not the usual one")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for NAME.mat of each image")
    parser.add_argument("--count", type=_number, default=2000, metavar="N", help="most proposals of an image (2000)")
    parser.add_argument(
        "--superpixels",
        type=_number,
        default=250,
        metavar="N",
        help=f"most superpixels (250); at most {mcg_proposals.MOST_SUPERPIXELS}",
    )
    parser.add_argument("--para_job", type=_number, default=1, metavar="N", help="processes (1)")
    parser.add_argument("--overwrite", action="store_true", help="make files anew that are there")
    return parser.parse_args(argv)


def _number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 100000")
    return int(text)


@dataclass(frozen=True)
class Task:
    """One image, and the file of its proposals."""

    image: str
    target: str
    count: int
    superpixels: int


def make(task: Task) -> str | None:
    """Write the proposals of an image; returns a remark if it has none. Raises CaffeError when that is impossible."""
    try:
        image = read_image(Path(task.image))
    except OSError as error:
        raise CaffeError(f"{task.image}: {error.strerror}") from error
    superpixels, labels = mcg_proposals.propose(image, task.count, task.superpixels)
    mcg.write(task.target, superpixels, labels)
    return None if labels else f"{task.image}: has no proposal; nothing stands out in it"


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 1 when an image could not be done. Raises CaffeError when none can be."""
    args = parse_args(argv)
    if args.superpixels > mcg_proposals.MOST_SUPERPIXELS:
        raise CaffeError(f"--superpixels {args.superpixels}: at most {mcg_proposals.MOST_SUPERPIXELS} can be merged")
    if importlib.util.find_spec("skimage") is None:
        raise CaffeError(mcg_proposals.MISSING)
    if args.db:
        dataset = get_imdb(args.db, args.root)
        named = list(zip(dataset.image_names, dataset.image_paths))
    else:
        named = [(path.stem, str(path)) for path in find_images(args.images)]
        twice = [name for name, times in Counter(name for name, _ in named).items() if times > 1]
        if twice:
            raise CaffeError(f"several images are called {twice[0]}; their proposals would share a file")
    tasks = [Task(path, os.path.join(args.out, f"{name}.mat"), args.count, args.superpixels) for name, path in named]
    left = [task for task in tasks if args.overwrite or not os.path.exists(task.target)]
    failed = image_jobs.work(make, left, args.para_job)
    print(f"{args.out}: {len(left) - failed} images written, {len(tasks) - len(left)} were there, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run(main))
