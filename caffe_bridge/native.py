"""Loading the compiled kernels (csrc/), and saying whether they are in use."""

from __future__ import annotations

import ctypes
import functools
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

BUILD_HINT = "build them with `pip install -e . --no-build-isolation` in a source checkout with a C++ compiler"


@dataclass(frozen=True)
class Status:
    """Which kernels answer `torch.ops.caffe_bridge`, why, and the file they were loaded from."""

    loaded: bool
    cuda: bool
    reason: str
    path: Path | None = None

    def __str__(self) -> str:
        kind = "native (CPU and CUDA)" if self.cuda else "native (CPU)" if self.loaded else "pure torch"
        return f"{kind}: {self.reason}"


@functools.cache
def load() -> Status:
    """Load the extension, once; warns when there is none to load.

    `CAFFE_BRIDGE_NATIVE=0` in the environment leaves it out: every operation then runs its pure-torch twin.
    """
    if os.environ.get("CAFFE_BRIDGE_NATIVE") == "0":
        return Status(False, False, "switched off by CAFFE_BRIDGE_NATIVE=0")
    libraries = sorted(Path(__file__).parent.glob("_native*.so"))
    if not libraries:
        return _unavailable("no compiled extension is installed")
    try:
        torch.ops.load_library(libraries[0])
    except OSError as error:
        return _unavailable(f"{libraries[0].name} does not load ({error})")
    cuda = "cuda" in torch.ops.caffe_bridge.native_devices()
    return Status(True, cuda, f"loaded {libraries[0].name}", libraries[0])


def status() -> Status:
    """The state of the native kernels, for `caffe-bridge info`."""
    return load()


@functools.cache
def library() -> ctypes.CDLL | None:
    """The loaded extension, for its functions that are no torch operations; None where there is none."""
    path = load().path
    return None if path is None else ctypes.CDLL(str(path))


def _unavailable(reason: str) -> Status:
    warnings.warn(f"caffe_bridge runs without its native kernels: {reason}; {BUILD_HINT}", stacklevel=3)
    return Status(False, False, reason)
