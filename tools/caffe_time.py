"""Benchmark a model's execution time layer by layer, as `caffe time` does."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from caffe_bridge.cli import run
from caffe_bridge.errors import CaffeError
from caffe_bridge.tools import _caffe_flags

log = logging.getLogger("caffe_bridge")


def milliseconds(step: Callable[[int, int], Any], layer: int) -> float:
    """How long a layer's step takes, what it leaves running on the GPU included."""
    import torch

    start = time.perf_counter()
    step(layer, layer)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    flags = _caffe_flags.parse(__doc__, argv)
    if not flags.model:
        raise CaffeError("time needs a net definition: --model PROTOTXT")
    if flags.phase not in ("", "TRAIN", "TEST"):
        raise CaffeError(f"--phase is TRAIN or TEST, not '{flags.phase}'")
    iterations = _caffe_flags.iterations(flags)

    from caffe_bridge import pycaffe
    from caffe_bridge.solver_loop import number

    _caffe_flags.choose_first_device(flags)
    pycaffe.install()
    phase = pycaffe.TEST if flags.phase == "TEST" else pycaffe.TRAIN
    net = pycaffe.Net(flags.model, phase, level=flags.level, stages=_caffe_flags.stages(flags))
    names, last = list(net._layer_names), len(net.layers) - 1

    log.info("Performing Forward")
    log.info("Initial loss: %s", number(net._forward(0, last)))
    log.info("Performing Backward")
    net._backward(last, 0)
    log.info("*** Benchmark begins ***")
    log.info("Testing for %d iterations.", iterations)
    forward, backward, total = [0.0] * len(names), [0.0] * len(names), 0.0
    for i in range(iterations):
        start = time.perf_counter()
        for layer in range(len(names)):
            forward[layer] += milliseconds(net._forward, layer)
        for layer in reversed(range(len(names))):
            backward[layer] += milliseconds(net._backward, layer)
        elapsed = 1000 * (time.perf_counter() - start)
        log.info("Iteration: %d forward-backward time: %s ms.", i + 1, number(elapsed))
        total += elapsed
    log.info("Average time per layer: ")
    for name, there, back in zip(names, forward, backward):
        log.info("%10s\tforward: %s ms.", name, number(there / iterations))
        log.info("%10s\tbackward: %s ms.", name, number(back / iterations))
    log.info("Average Forward pass: %s ms.", number(sum(forward) / iterations))
    log.info("Average Backward pass: %s ms.", number(sum(backward) / iterations))
    log.info("Average Forward-Backward: %s ms.", number(total / iterations))
    log.info("Total Time: %s ms.", number(total))
    log.info("*** Benchmark ends ***")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
