"""Show what GPUs are like, as `caffe device_query` does: --gpu 0, --gpu 0,1 or --gpu all."""

from __future__ import annotations

import logging
import sys

from caffe_bridge.cli import run
from caffe_bridge.tools import _caffe_flags

log = logging.getLogger("caffe_bridge")


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    flags = _caffe_flags.parse(__doc__, argv)

    import torch

    log.info("Querying GPUs %s", flags.gpu)
    if not torch.cuda.device_count() and flags.gpu in ("", "all"):
        print("No cuda device present.")
        return 0
    for index in _caffe_flags.gpus(flags.gpu):
        found = torch.cuda.get_device_properties(index)
        rows = (
            ("Device id", index),
            ("Major revision number", found.major),
            ("Minor revision number", found.minor),
            ("Name", found.name),
            ("Total global memory", found.total_memory),
            ("Total shared memory per block", found.shared_memory_per_block),
            ("Total registers per multiprocessor", getattr(found, "regs_per_multiprocessor", "unknown")),
            ("Warp size", found.warp_size),
            ("Maximum threads per multiprocessor", found.max_threads_per_multi_processor),
            ("Number of multiprocessors", found.multi_processor_count),
        )
        for what, value in rows:
            log.info("%-30s %s", f"{what}:", value)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
