"""Train a small cascade on generated images from scratch, test it on others, and show what it finds.

Makes a data set of textured shapes in SBD's format, trains prototxt/mnc5_tiny on it with `train-net`, tests it with
`test-net`, and leaves the course of training, precision against recall and pictures. Nothing is downloaded; on a CPU it
takes about five minutes.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import shutil
import sys
import time
from pathlib import Path

import torch

from caffe_bridge.cli import documented_parser, run
from caffe_bridge.datasets import shapes
from caffe_bridge.errors import CaffeError
from caffe_bridge.tools import test_net, train_net

SIZE = (160, 208)
ITERATIONS = 2400
PICTURES = ("training.png", "precision.png", "best_and_worst.png")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = documented_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("output", "demo"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--iters", type=int, default=ITERATIONS, metavar="N", help="updates (default: %(default)s)")
    parser.add_argument("--images", type=int, default=1500, metavar="N", help="to train on (default: %(default)s)")
    parser.add_argument("--unseen", type=int, default=100, metavar="N", help="to test on (default: %(default)s)")
    parser.add_argument("--cfg", metavar="YAML", help="settings (default: the packaged mnc5_tiny.yml)")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--gpu", type=int, metavar="N", help="run on this GPU")
    place.add_argument("--cpu", action="store_true", help="run on the CPU (the default where there is no GPU)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when everything ran, whatever the figures."""
    args = parse_args(argv)
    if min(args.iters, args.images, args.unseen) < 1:
        raise CaffeError("--iters, --images and --unseen are at least 1")
    packaged = importlib.resources.files("caffe_bridge.experiments") / "cfgs" / "mnc5_tiny.yml"
    settings = args.cfg or str(packaged)
    model = importlib.resources.files("caffe_bridge.prototxt") / "mnc5_tiny"
    device = ["--cpu"] if args.cpu else [] if args.gpu is None else ["--gpu", str(args.gpu)]
    out = args.out.resolve()
    places = ["--set", "ROOT_DIR", str(out), "DATA_DIR", str(out / "data"), "EXP_DIR", "training"]

    torch.set_num_threads(min(2, torch.get_num_threads()))  # the layers are too small for more
    start = time.monotonic()
    data = out / "data" / "shapes"
    data.mkdir(parents=True, exist_ok=True)
    shapes.make(str(data), args.images, args.unseen, SIZE)
    made = time.monotonic()
    solver = ["--solver", str(model / "solver.prototxt"), "--iters", str(args.iters), "--cfg", str(settings)]
    train_net.main([*device, *solver, "--imdb", "shapes_train", *places])
    trained = time.monotonic()
    run_folder = out / "output" / "training"
    weights = max(run_folder.glob("shapes_train/*.caffemodel.h5"), key=lambda path: path.stat().st_mtime_ns)
    net = ["--def", str(model / "test.prototxt"), "--net", str(weights), "--cfg", str(settings)]
    test_net.main([*device, *net, "--imdb", "shapes_val", *places])

    (results,) = (run_folder / "shapes_val").glob(f"{weights.name.split('.')[0]}/results.json")
    shutil.copy(run_folder / "shapes_train" / "training.png", out)
    for name in PICTURES[1:]:
        shutil.copy(results.parent / name, out)
    print(
        f"{args.images} images made in {made - start:.0f} s, {args.iters} iterations in {trained - made:.0f} s, "
        f"{args.unseen} unseen images tested in {time.monotonic() - trained:.0f} s"
    )
    for name, value in json.loads(results.read_text(encoding="utf-8"))["mean"].items():
        print(f"{name} = {100 * value:.1f} %")
    print("Pictures: " + " ".join(str(args.out / name) for name in PICTURES))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
