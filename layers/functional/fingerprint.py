"""One number for the contents of tensors."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch

from caffe_bridge.layers.functional._library import operation


def fingerprint(tensors: Sequence[torch.Tensor]) -> int:
    """A number that another content of any of the tensors changes, whoever wrote it.

    torch's version counters do not see what is written through `.data` or a NumPy view. The number is for comparing
    within a process; the compiled kernel reads as fast as memory does.
    """
    return torch.ops.caffe_bridge.fingerprint(list(tensors))


def _fake(tensors):
    raise NotImplementedError("a fingerprint depends on the values")


@operation("fingerprint(Tensor[] tensors) -> int", _fake)
def _fingerprint(tensors: Sequence[torch.Tensor]) -> int:
    state = 0
    for tensor in tensors:
        state = zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data, state)
    return state
