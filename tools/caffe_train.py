"""Train or finetune a model, as `caffe train` does.

The nets are those of the pycaffe face: layer by layer, with Caffe's diffs and its Python layers, whose modules are
looked for on PYTHONPATH. SIGINT (Ctrl-C) stops the training after a snapshot, SIGHUP takes a snapshot, unless the
flags say otherwise.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from caffe_bridge.cli import run
from caffe_bridge.errors import CaffeError
from caffe_bridge.tools import _caffe_flags

log = logging.getLogger("caffe_bridge")


def solver_parameter(flags: argparse.Namespace) -> tuple[Any, str]:
    """The solver's definition with what the flags add to it, and its path."""
    from caffe_bridge import definition

    if not flags.solver:
        raise CaffeError("train needs a solver definition: --solver PROTOTXT")
    if flags.snapshot and flags.weights:
        raise CaffeError("give --snapshot to resume training or --weights to finetune, not both")
    param, path = definition.read_solver(Path(flags.solver))
    param.train_state.level = flags.level
    param.train_state.stage.extend(_caffe_flags.stages(flags))
    if flags.snapshot or flags.weights:
        del param.weights[:]
    param.weights.extend(name.strip() for name in flags.weights.split(",") if name.strip())
    return param, path


def choose_device(flag: str, param: Any) -> None:
    """Set the device that the flag, or else the solver's solver_mode and device_id, ask for.

    A solver written for a GPU trains on the CPU where there is none; a flag has to be met.
    """
    import torch

    if not flag and param.HasField("solver_mode") and param.solver_mode == param.GPU:
        if torch.cuda.is_available():
            flag = str(param.device_id)
        else:
            log.warning("solver_mode is GPU, but torch finds no GPU here")
    chosen = _caffe_flags.gpus(flag)
    if len(chosen) > 1:
        raise CaffeError(
            f"--gpu {flag}: train runs on one GPU; for several, start caffe_bridge.Net in torch's "
            "DistributedDataParallel with torchrun"
        )
    if chosen:
        log.info("Using GPUs %d", chosen[0])
        log.info("GPU %d: %s", chosen[0], torch.cuda.get_device_name(chosen[0]))
        param.device_id = chosen[0]
    _caffe_flags.choose_device(chosen)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    flags = _caffe_flags.parse(__doc__, argv)
    param, path = solver_parameter(flags)

    from caffe_bridge import pycaffe, signals

    choose_device(flags.gpu, param)
    pycaffe.install()
    with signals.requests(flags.sigint_effect, flags.sighup_effect) as requests:
        for name in param.weights:
            log.info("Finetuning from %s", name)
        solver = pycaffe.get_solver(param, path)
        solver.requests = requests
        solver.continues_data = True
        if flags.snapshot:
            log.info("Resuming from %s", flags.snapshot)
            solver.restore(flags.snapshot)
        log.info("Starting Optimization")
        solver.solve()
    log.info("Optimization Done.")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
