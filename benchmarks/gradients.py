"""Train the small cascade with published and with exact gradients from several seeds, and compare what it finds.

    python benchmarks/gradients.py --out output/gradients

Makes generated images once, then for every seed and kind of gradients trains prototxt/mnc5_tiny and tests it on images
it never saw, and prints mAP^r. Given again, the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import importlib.resources
import itertools
import json
from pathlib import Path

import torch

from caffe_bridge.datasets import shapes
from caffe_bridge.tools import test_net, train_net

SIZE = (160, 208)
KINDS = {"published": False, "exact": True}
ITERATIONS = 2400
MODEL = importlib.resources.files("caffe_bridge.prototxt") / "mnc5_tiny"
SETTINGS = importlib.resources.files("caffe_bridge.experiments") / "cfgs" / "mnc5_tiny.yml"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--iters", type=int, default=ITERATIONS, metavar="N", help="default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5], metavar="N", help="default: 3 4 5")
    parser.add_argument("--images", type=int, default=1500, metavar="N", help="to train on (default: %(default)s)")
    parser.add_argument("--unseen", type=int, default=100, metavar="N", help="to test on (default: %(default)s)")
    return parser.parse_args()


def figures(out: Path, iterations: int, seed: int, kind: str) -> dict[str, float]:
    """The mean average precisions of one run, which is made unless it has been."""
    name = f"{kind}_{seed}_{iterations}"
    snapshot = f"mnc5_tiny_iter_{iterations}"
    results = out / "output" / name / "shapes_val" / snapshot / "results.json"
    if not results.exists():
        places = ["ROOT_DIR", out, "DATA_DIR", out / "data", "EXP_DIR", name]
        choices = ["RNG_SEED", seed, "TRAIN.EXACT_GRADIENTS", KINDS[kind], "TRAIN.SNAPSHOT_ITERS", 100]
        settings = ["--cfg", str(SETTINGS), "--set", *map(str, [*places, *choices])]
        solver, data = ["--solver", str(MODEL / "solver.prototxt")], ["--imdb", "shapes_train"]
        train_net.main(["--cpu", *solver, *data, "--iters", str(iterations), "--resume", *settings])
        weights = out / "output" / name / "shapes_train" / f"{snapshot}.caffemodel.h5"
        net = ["--def", str(MODEL / "test.prototxt"), "--net", str(weights), "--imdb", "shapes_val"]
        test_net.main(["--cpu", *net, *settings])
    return json.loads(results.read_text(encoding="utf-8"))["mean"]


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    out = args.out.resolve()
    data = out / "data" / "shapes"
    data.mkdir(parents=True, exist_ok=True)
    shapes.make(str(data), args.images, args.unseen, SIZE)
    found = {run: figures(out, args.iters, *run) for run in itertools.product(args.seeds, KINDS)}
    print(f"{args.iters} iterations, {args.unseen} unseen images, mAP^r at 0.5 and 0.7")
    for (seed, kind), mean in found.items():
        print(f"seed {seed}, {kind:9s}  {100 * mean['mAP^r@0.5']:5.1f} %  {100 * mean['mAP^r@0.7']:5.1f} %")


if __name__ == "__main__":
    main()
