"""Reading and writing MATLAB files: what is wrong with one is named, and one is written complete or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence

import numpy as np
import scipy.io

from caffe_bridge.errors import CaffeError


def load(path: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The variables of these names, as scipy.io.loadmat gives them.

    Raises:
        CaffeError: the file cannot be read, or lacks one of them.
    """
    try:
        found = scipy.io.loadmat(path, variable_names=list(names))
    except NotImplementedError as error:
        raise CaffeError(f"{path}: is a MATLAB 7.3 file; save it with -v7") from error
    except Exception as error:  # the reader raises whatever it stumbles over in a damaged file
        reason = getattr(error, "strerror", None) or f"is no readable MATLAB file ({type(error).__name__})"
        raise CaffeError(f"{path}: {reason}") from error
    for name in names:
        if not isinstance(found.get(name), np.ndarray):
            raise CaffeError(f"{path}: lacks {name}")
    return {name: found[name] for name in names}


def save(path: str, arrays: dict[str, np.ndarray | bool]) -> None:
    """Write a file that is the same, byte for byte, for equal arrays; folders are made.

    Raises:
        CaffeError: it cannot be written.
    """
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, arrays, do_compression=True)
    partial = f"{path}.{os.getpid()}.partial"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(partial, "wb") as file:
            file.write(b"MATLAB 5.0 MAT-file".ljust(116) + buffer.getvalue()[116:])
        os.replace(partial, path)
    except OSError as error:
        raise CaffeError(f"{path}: cannot be written: {error.strerror}") from error
