"""The flags of the `caffe` program. Every command takes all of them, as there, and uses those that concern it."""

from __future__ import annotations

import argparse
import logging
from typing import NoReturn

from caffe_bridge import log
from caffe_bridge.errors import CaffeError

FLAGS: tuple[tuple[str, str, str | int, str], ...] = (
    ("gpu", "ID", "", "run on this GPU, instead of on the CPU; 'all' is every GPU"),
    ("solver", "PROTOTXT", "", "the solver definition"),
    ("model", "PROTOTXT", "", "the net definition"),
    ("phase", "TRAIN|TEST", "", "the net's phase (time only)"),
    ("level", "N", 0, "the net's level"),
    ("stage", "NAMES", "", "the net's stages, separated by ','"),
    ("snapshot", "STATE", "", "the solver state to resume training from"),
    ("weights", "FILES", "", "weights to start or to score with, separated by ','; not together with --snapshot"),
    ("iterations", "N", 50, "the number of iterations"),
    ("sigint_effect", "EFFECT", "stop", "what SIGINT asks for: snapshot, stop or none"),
    ("sighup_effect", "EFFECT", "snapshot", "what SIGHUP asks for: snapshot, stop or none"),
)
logger = logging.getLogger("caffe_bridge")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CaffeError(message)


def parse(description: str | None, argv: list[str] | None) -> argparse.Namespace:
    """The flags, written -flag VALUE, -flag=VALUE, --flag VALUE or --flag=VALUE; log messages are shown from here on.

    Raises:
        CaffeError: an unknown flag, or a value that is none.
    """
    parser = _Parser(description=description, allow_abbrev=False)
    for name, metavar, default, text in FLAGS:
        shown = f"{text} (default {default})" if default != "" else text
        parser.add_argument(f"--{name}", f"-{name}", metavar=metavar, default=default, type=type(default), help=shown)
    for name in ("logtostderr", "alsologtostderr"):  # what happens here in any case; scripts pass them
        parser.add_argument(f"--{name}", f"-{name}", nargs="?", help=argparse.SUPPRESS)
    flags = parser.parse_args(argv)
    log.show()
    return flags


def stages(flags: argparse.Namespace) -> list[str]:
    """The names in --stage."""
    return [name for name in flags.stage.split(",") if name]


def iterations(flags: argparse.Namespace) -> int:
    """The number of iterations. Raises CaffeError when it is below 1."""
    if flags.iterations < 1:
        raise CaffeError(f"--iterations is at least 1, not {flags.iterations}")
    return flags.iterations


def gpus(text: str) -> list[int]:
    """The GPUs of a --gpu flag, none for "".

    Raises:
        CaffeError: it is neither "all" nor a list of numbers, or torch does not find one of them.
    """
    import torch

    count = torch.cuda.device_count()
    if text == "all":
        if not count:
            raise CaffeError("--gpu all: torch finds no GPU here; leave the flag out to run on the CPU")
        return list(range(count))
    listed = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() for part in listed):
        raise CaffeError(f"--gpu is a number, several separated by ',', or 'all', not '{text}'")
    for part in listed:
        if int(part) >= count:
            raise CaffeError(f"--gpu {part}: there is no such GPU; torch finds {count or 'none'}")
    return [int(part) for part in listed]


def choose_device(chosen: list[int]) -> None:
    """Let nets made from now on live on the first of these GPUs, or on the CPU if there are none."""
    from caffe_bridge.pycaffe import modes

    if chosen:
        modes.set_device(chosen[0])
        modes.set_mode_gpu()
    else:
        logger.info("Use CPU.")
        modes.set_mode_cpu()


def choose_first_device(flags: argparse.Namespace) -> None:
    """`choose_device` for the commands that use one GPU whatever the flag says."""
    import torch

    chosen = gpus(flags.gpu)
    if chosen:
        logger.info("Use GPU with device ID %d", chosen[0])
        logger.info("GPU device name: %s", torch.cuda.get_device_name(chosen[0]))
    choose_device(chosen)
