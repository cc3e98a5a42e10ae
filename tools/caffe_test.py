"""Score a model, as `caffe test` does."""

from __future__ import annotations

import logging
import sys
from collections import defaultdict

from caffe_bridge.cli import run
from caffe_bridge.errors import CaffeError
from caffe_bridge.tools import _caffe_flags

log = logging.getLogger("caffe_bridge")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    flags = _caffe_flags.parse(__doc__, argv)
    if not flags.model or not flags.weights:
        missing = "weights: --weights FILE" if flags.model else "a net definition: --model PROTOTXT"
        raise CaffeError(f"test needs {missing}")
    iterations = _caffe_flags.iterations(flags)

    from caffe_bridge import pycaffe
    from caffe_bridge.solver_loop import number, scored

    _caffe_flags.choose_first_device(flags)
    pycaffe.install()
    net = pycaffe.Net(flags.model, pycaffe.TEST, level=flags.level, stages=_caffe_flags.stages(flags))
    net.copy_from(flags.weights)
    log.info("Running for %d iterations.", iterations)
    sums: dict[tuple[str, int], float] = defaultdict(float)
    loss = 0.0
    for i in range(iterations):
        loss += net._forward(0, len(net.layers) - 1)
        for name in net.outputs:
            for k, score in enumerate(net.blobs[name].data.reshape(-1).tolist()):
                sums[name, k] += score
                log.info("Batch %d, %s = %s", i, name, number(score))
    log.info("Loss: %s", number(loss / iterations))
    weights = net.blob_loss_weights
    for (name, _), total in sums.items():
        log.info("%s", scored(name, total / iterations, weights[name]))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
