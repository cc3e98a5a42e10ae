"""Train a detection or segmentation net on a data set.

The arguments are those of MNC's and py-faster-rcnn's tools/train_net.py; what they lack comes last. Several GPUs:

    torchrun --nproc-per-node 8 -m caffe_bridge.tools.train_net --solver ... --imdb ...
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import secrets
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from caffe_bridge import mixed_precision, randomness, signals
from caffe_bridge.cli import run
from caffe_bridge.compiled_net import CompiledNet
from caffe_bridge.config import cfg
from caffe_bridge.datasets import Dataset, get_imdb, problems
from caffe_bridge.definition import read_solver, solver_nets
from caffe_bridge.distributed import Workers, workers
from caffe_bridge.errors import CaffeError
from caffe_bridge.projects import project_of
from caffe_bridge.tools._data_set_flags import add_defaults, announce, apply_settings, data_set_parser, output_folder
from caffe_bridge.training import Trainer, latest_state
from caffe_bridge.training_record import TrainingRecord

LATEST = "latest"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser, more = data_set_parser(__doc__, "voc_2007_trainval")
    parser.add_argument("--solver", required=True, metavar="PROTOTXT", help="solver prototxt")
    parser.add_argument("--iters", type=int, default=40000, metavar="N", help="updates to make (default: %(default)s)")
    parser.add_argument("--weights", metavar="WEIGHTS", help="weights to start from; several are joined by commas")
    parser.add_argument("--rand", action="store_true", help="do not start from the seed cfg.RNG_SEED")
    more.add_argument("--classes", type=int, metavar="N", help="make the net for N classes, background included")
    more.add_argument("--ignore-shapes", action="store_true", help="skip weights of layers that have other shapes")
    more.add_argument(
        "--proposals",
        metavar="PATH",
        help="for cfm: the folder prepare-mcg-maskdb made (data/cache/...); for Fast R-CNN: the file of boxes",
    )
    add_defaults(more)
    more.add_argument(
        "--resume", nargs="?", const=LATEST, metavar="STATE", help="go on from a solver state; by default the latest"
    )
    more.add_argument("--seed-passes", action="store_true", help="draw as a run on several devices does")
    more.add_argument("--amp", choices=["bf16"], help="matrix products in bfloat16")
    more.add_argument("--compile", action="store_true", help="compile runs of layers with torch.compile")
    more.add_argument("--tensorboard", action="store_true", help="write TensorBoard's event files too")
    return parser.parse_args(argv)


def seed(args: argparse.Namespace, me: Workers) -> int:
    """Start the random streams from cfg.RNG_SEED, or with --rand from one nobody knows; all processes the same."""
    chosen = torch.tensor([secrets.randbits(31) if args.rand else cfg.RNG_SEED], device=me.device)
    me.share([chosen])
    np.random.seed(int(chosen))
    randomness.seed(int(chosen))
    return int(chosen)


def make_trainer(args: argparse.Namespace, imdb: Dataset, folder: Path, me: Workers) -> Trainer:
    """The trainer the arguments describe, fed and at the iteration it starts from."""
    chosen = seed(args, me)
    trainer = Trainer(
        args.solver,
        args.weights,
        folder=folder,
        max_iter=args.iters,
        classes=args.classes,
        ignore_shapes=args.ignore_shapes,
        workers=me,
        seed_passes=chosen if args.seed_passes or me.count > 1 else None,
    )
    count = trainer.feed(imdb, args.proposals)
    if me.first:
        print(f"{count} roidb entries")
    if args.amp:
        mixed_precision.use_bfloat16(trainer.net)
    if args.compile:
        trainer.forward = CompiledNet(trainer.net)
    if args.resume:
        state = latest_state(trainer.param.snapshot_prefix) if args.resume == LATEST else args.resume
        if state is not None:
            print(f"Going on from {state}")
            trainer.restore(state)
        else:
            print(f"No snapshot {trainer.param.snapshot_prefix}_iter_*.solverstate yet: starting from the beginning")
    return trainer


def train(trainer: Trainer, stem: Path, tensorboard: bool) -> None:
    """Train to the end, showing and recording how it goes."""
    with contextlib.ExitStack() as stack:
        if trainer.workers.first:
            record = TrainingRecord(stem, trainer.iter, stem.parent / "tensorboard" if tensorboard else None)
            stack.callback(record.close)
            trainer.recorders.append(record)
            terminal = sys.stderr.isatty()
            bar = tqdm(total=trainer.param.max_iter, initial=trainer.iter, unit="iter", disable=not terminal)
            stack.enter_context(bar)
            if terminal:
                stack.enter_context(logging_redirect_tqdm([logging.getLogger("caffe_bridge")]))
            trainer.add_callback(lambda: None, lambda: bar.update(1))
        trainer.requests = stack.enter_context(signals.requests())
        trainer.solve()


def run_training(args: argparse.Namespace, me: Workers, record: str = "training") -> Trainer:
    """Train as the arguments say; `record` names the files that show how it goes. Returns the trainer as it ended."""
    imdb = get_imdb(args.imdb, args.data, problems.parse(args.on))
    folder = output_folder(imdb.name)
    if me.first:
        print(f"Output will be saved to `{folder}`\nSolving...")
    trainer = make_trainer(args, imdb, folder, me)
    train(trainer, folder / record, args.tensorboard)
    me.wait()
    if me.first:
        print(f"Wrote snapshot to: {trainer.saved}")
        finished = trainer.iter >= args.iters
        print("done solving" if finished else f"stopped after {trainer.iter} of {args.iters} iterations")
    return trainer


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when all iterations are done."""
    args = parse_args(argv)
    if args.iters < 0:
        raise CaffeError(f"--iters {args.iters}: a number of iterations is not negative")
    args.defaults = args.defaults or project_of(solver_nets(*read_solver(args.solver))[0])
    apply_settings(args)
    with workers(args.gpu, args.cpu) as me:
        announce(args, me)
        run_training(args, me)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
