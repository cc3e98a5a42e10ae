"""Caffe's global state: where nets run, and the seed."""

from __future__ import annotations

from typing import Any

import torch

from caffe_bridge import randomness
from caffe_bridge.errors import CaffeError

_state = {"gpu": False, "device": 0}

_NO_NCCL = "there is no NCCL here; to train on several GPUs, wrap caffe_bridge.Net in torch's DistributedDataParallel"


def set_mode_cpu() -> None:
    """Nets made from now on live on the CPU."""
    _state["gpu"] = False


def set_mode_gpu() -> None:
    """Nets made from now on live on the GPU that `set_device` chose (the first by default).

    Raises CaffeError when torch sees no GPU.
    """
    if not torch.cuda.is_available():
        raise CaffeError("set_mode_gpu: torch finds no GPU here; use set_mode_cpu, or install a CUDA build of torch")
    _state["gpu"] = True


def set_device(device_id: int) -> None:
    """Choose the GPU for nets made from now on; it takes effect in GPU mode.

    Raises CaffeError when torch sees GPUs but not this one.
    """
    count = torch.cuda.device_count()
    if count and not 0 <= device_id < count:
        raise CaffeError(f"set_device: there is no GPU {device_id}; torch finds {count}")
    _state["device"] = int(device_id)


def device() -> torch.device:
    """The device of new nets."""
    return torch.device("cuda", _state["device"]) if _state["gpu"] else torch.device("cpu")


def set_random_seed(seed: int) -> None:
    """Seed fillers, dropout and transforms. Samplers of the detection layers use NumPy's own generator."""
    randomness.seed(seed)


def set_multiprocess(multiprocess: bool) -> None:
    """Accepted for Caffe's training scripts; each process here is on its own in any case."""


def has_nccl() -> bool:
    """False: several GPUs are driven by torch.distributed here."""
    return False


class NCCL:
    """Caffe's link between solvers on several GPUs, which caffe-bridge does not have.

    Raises:
        CaffeError: always.
    """

    def __init__(self, *args: Any):
        raise CaffeError(_NO_NCCL)

    @staticmethod
    def new_uid() -> str:
        """Not available; raises CaffeError."""
        raise CaffeError(_NO_NCCL)
