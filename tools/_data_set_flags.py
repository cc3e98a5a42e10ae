"""Flags and settings of the programs that train a net on a data set or look at one with it."""

from __future__ import annotations

import argparse
import pprint
import re
import time
from pathlib import Path

from caffe_bridge import config, log
from caffe_bridge.cli import documented_parser
from caffe_bridge.config import cfg
from caffe_bridge.datasets import problems
from caffe_bridge.distributed import Workers


def data_set_parser(doc: str | None, imdb: str) -> tuple[argparse.ArgumentParser, argparse._ArgumentGroup]:
    """A parser that knows the flags all of them share, and its group of flags that the original programs lack.

    `doc` is the program's docstring, `imdb` the data set it takes if it is told none.
    """
    parser = documented_parser(doc)
    parser.add_argument("--gpu", type=int, metavar="N", help="the GPU to use; the first one by default")
    parser.add_argument("--cfg", metavar="YAML", help="settings, as experiments/cfgs/*.yml")
    parser.add_argument("--imdb", default=imdb, metavar="NAME", help="data sets, joined by + (default: %(default)s)")
    parser.add_argument("--set", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="settings; comes last")
    more = parser.add_argument_group("not in the original")
    more.add_argument("--cpu", action="store_true", help="stay on the CPU (the default where there is no GPU)")
    more.add_argument("--data", metavar="DIR", help="the data set's folder, where it is not below cfg.DATA_DIR")
    more.add_argument("--on", **problems.FLAG)
    return parser, more


def add_defaults(group: argparse._ArgumentGroup) -> None:
    """The flag that says whose settings --cfg and --set change."""
    group.add_argument("--defaults", choices=config.PROJECTS, help="whose settings to begin with (the net's own)")


def add_net(parser: argparse.ArgumentParser, about: str) -> None:
    """The flags of the net that looks at the images: --def, `about` in its help, --net and --wait."""
    parser.add_argument("--def", dest="prototxt", required=True, metavar="PROTOTXT", help=about)
    parser.add_argument("--net", dest="weights", required=True, metavar="WEIGHTS", help="its weights")
    parser.add_argument("--wait", nargs="?", const="yes", metavar="YES", help="wait until the weights are there")


def wait_for_weights(args: argparse.Namespace) -> None:
    """With --wait, return when the weights exist."""
    if not args.wait or args.wait.lower() in ("no", "false", "0"):
        return
    while not Path(args.weights).exists():
        print(f"Waiting for {args.weights} to exist...", flush=True)
        time.sleep(10)


def apply_settings(args: argparse.Namespace) -> None:
    """Merge --cfg, then --set into the settings of --defaults."""
    config.use(args.defaults)
    if args.cfg:
        config.cfg_from_file(args.cfg)
    config.cfg_from_list(args.set)


def announce(args: argparse.Namespace, me: Workers) -> None:
    """Show the log from here on, and what a program was asked to do."""
    cfg.GPU_ID = me.device.index or 0
    if me.first:
        log.show()
        print(f"Called with args:\n{args}\nUsing config:")
        pprint.pprint(dict(cfg))


def output_folder(imdb_name: str) -> Path:
    """Where a data set's snapshots and results go: ROOT_DIR/output/EXP_DIR/NAME."""
    return Path(cfg.ROOT_DIR, "output", cfg.EXP_DIR, re.sub(r"[^\w.+-]+", "_", imdb_name)[-150:])


def results_folder(imdb_name: str, weights: str) -> Path:
    """Where what a net finds in a data set goes, made if it is not there: a folder with the name of its weights."""
    name = Path(weights).name.removesuffix(".h5").removesuffix(".caffemodel")
    folder = output_folder(imdb_name) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
