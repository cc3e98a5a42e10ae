"""Several processes at one task, started by torchrun: who am I, and what do all of us have together.

    torchrun --nproc-per-node 8 -m caffe_bridge.cli train-net ...

Each process sees its rank and their number in the environment torchrun sets; one process alone is rank 0 of 1 and
needs no torch.distributed. GPUs talk through NCCL, CPUs through gloo.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from caffe_bridge.errors import CaffeError

BUCKET = 1 << 24  # elements summed over the processes in one message
TIMEOUT = timedelta(hours=2)  # the longest that processes wait for each other: one may test while the others are done


@dataclass(frozen=True)
class Workers:
    """One of `count` processes.

    Attributes:
        rank: this process, 0 to count - 1; rank 0 writes files and logs.
        count: the processes that work together.
        device: where this process computes.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors, in place, by their sums over the processes; all give them in the same order."""
        if self.count == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket])):
                tensor.copy_(part.view_as(tensor))

    def share(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors, in place, by those of rank 0."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.count > 1:
            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Runs of tensors of one dtype with about BUCKET elements together."""
    bucket: list[torch.Tensor] = []
    for tensor in tensors:
        full = sum(other.numel() for other in bucket) + tensor.numel() > BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextlib.contextmanager
def workers(gpu: int | None = None, cpu: bool = False) -> Iterator[Workers]:
    """Join the other processes torchrun started, if it did, for the `with` block.

    Args:
        gpu: the GPU of a process that is alone; by default the first one. Under torchrun each takes its own.
        cpu: stay on the CPU.

    Raises:
        CaffeError: there is no such GPU.
    """
    count, rank = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", 1), ("RANK", 0)))
    if count > 1:
        gpu = int(os.environ.get("LOCAL_RANK", rank))
    found = torch.cuda.device_count()
    if gpu is not None and not cpu and found and not 0 <= gpu < found:
        raise CaffeError(f"GPU {gpu} is wanted, torch finds {found}")
    device = torch.device("cuda", gpu or 0) if found and not cpu else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if count == 1:
        yield Workers(device=device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Workers(rank, count, device)
    finally:
        dist.destroy_process_group()
