"""Opening weights files for reading without a copy, and replacing them in one step."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caffe_bridge.errors import CaffeError, WeightsError

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
HDF5_SUFFIXES = (".h5", ".hdf5")


def map_file(path: str | Path) -> mmap.mmap:
    """The bytes of a file, mapped read-only.

    Raises WeightsError when there is no such file, when it cannot be read, is no regular file, or is empty.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise WeightsError(f"{path}: is not a regular file")
        if status.st_size == 0:
            raise WeightsError(f"{path}: the file is empty")
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except CaffeError:
        raise
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: {_reason(error)}") from error


def is_hdf5(buffer: mmap.mmap) -> bool:
    """Whether the contents are HDF5: the signature stands at 0, 512 or a doubling of that."""
    offset = 0
    while offset + len(HDF5_SIGNATURE) <= len(buffer):
        if buffer[offset : offset + len(HDF5_SIGNATURE)] == HDF5_SIGNATURE:
            return True
        offset = 2 * offset or 512
    return False


def named_hdf5(path: str | Path) -> bool:
    """Whether a file to be written is to be HDF5, by its name."""
    return str(path).lower().endswith(HDF5_SUFFIXES)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[str]:
    """Write a file in one step: yields the name of a new, empty file beside `path`, which replaces `path` at the end.

    When the block raises, `path` is left as it was and the new file is removed. OSError and RuntimeError (HDF5's)
    become WeightsErrors naming `path`.
    """
    final = os.path.realpath(path)
    temporary = os.path.join(os.path.dirname(final), f".{os.path.basename(final)[:200]}.{os.getpid()}.partial")
    try:
        if os.path.exists(final) and not os.path.isfile(final):
            raise WeightsError(f"{path}: cannot be written: it exists and is no file")
        if not os.path.isdir(os.path.dirname(final)):
            raise WeightsError(f"{path}: cannot be written: the folder {os.path.dirname(final)} does not exist")
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666))
        try:
            yield temporary
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, final)
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(temporary)
            raise
    except CaffeError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]


def to_array(values: Any) -> np.ndarray:
    """An array or tensor as the contiguous little-endian array that Caffe stores: float64 stays, others are float32."""
    if isinstance(values, torch.Tensor):
        tensor = values.detach().cpu()
        values = (tensor if tensor.dtype == torch.float64 else tensor.float()).numpy()
    array = np.asarray(values)
    return np.asarray(array, dtype="<f8" if array.dtype == np.float64 else "<f4", order="C")
