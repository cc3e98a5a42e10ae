"""Caffe's Blob: data and diff as live NumPy arrays over the tensors that layers compute on."""

from __future__ import annotations

import math
import operator

import numpy as np
import torch

from caffe_bridge.errors import CaffeError
from caffe_bridge.layers.base import MAX_COUNT, Shape, canonical_axis

MAX_AXES = 32


class Memory:
    """A flat array that lives on one device and, where that is not the CPU, has a host mirror (SyncedMemory).

    `tensor()` and `array()` hand out the whole array for reading and writing. On the CPU they are one memory.
    Elsewhere the side handed out last is taken as the newer one and copied when the other side is asked for.
    """

    def __init__(self, tensor: torch.Tensor):
        self._device = tensor
        self._host: torch.Tensor | None = None
        self._head_at_host = False

    @property
    def size(self) -> int:
        """Number of elements held."""
        return self._device.numel()

    def tensor(self) -> torch.Tensor:
        """The array on its device."""
        if self._head_at_host:
            assert self._host is not None
            self._device.copy_(self._host)
            self._head_at_host = False
        return self._device

    def array(self) -> np.ndarray:
        """The array on the host; what is written there is seen by the next `tensor()`."""
        if self._device.device.type == "cpu":
            return self._device.numpy()
        if self._host is None:
            self._host = torch.empty_like(self._device, device="cpu")
        if not self._head_at_host:
            self._host.copy_(self._device)
            self._head_at_host = True
        return self._host.numpy()


class Blob:
    """An N-dimensional array with a gradient, as pycaffe shows it.

    `data` and `diff` are float32 arrays of the blob's shape. They stay live - writes on either side are seen on the
    other - until a reshape that needs more elements than the blob ever had.

    Args:
        shape: the first shape.
    """

    def __init__(self, *shape: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        self._shape: Shape = (0,)
        self._device, self._dtype = torch.device(device), dtype
        self._data = Memory(torch.zeros(0, device=device, dtype=dtype))
        self._diff: Memory | None = None
        if shape:
            self.reshape(*shape)

    def _allocate(self, count: int) -> Memory:
        return Memory(torch.zeros(count, device=self._device, dtype=self._dtype))

    def reshape(self, *shape: int) -> None:
        """Change the shape; values are kept where the element count allows (they are zero where memory is new).

        Raises:
            CaffeError: a negative dimension, more than 2**31 - 1 elements or 32 axes, as in Caffe.
            TypeError: a dimension that is no whole number.
        """
        new = tuple(operator.index(d) for d in shape)
        if any(d < 0 for d in new) or math.prod(new) > MAX_COUNT or len(new) > MAX_AXES:
            raise CaffeError(
                f"a blob cannot have shape {new}: at most {MAX_AXES} dimensions, from 0, and {MAX_COUNT} elements"
            )
        self._shape = new
        if self._data.size < self.count:
            self._data = self._allocate(self.count)
        if self._diff is not None and self._diff.size < self.count:
            self._diff = self._allocate(self.count)

    @property
    def shape(self) -> Shape:
        return self._shape

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self._shape)

    @property
    def data(self) -> np.ndarray:
        """The values."""
        return self._data_memory().array()[: self.count].reshape(self._shape)

    @property
    def diff(self) -> np.ndarray:
        """The gradient."""
        return self._diff_memory().array()[: self.count].reshape(self._shape)

    @property
    def tensor(self) -> torch.Tensor:
        """The values where the net computes; shares memory with `data` on the CPU."""
        return self._data_memory().tensor()[: self.count].view(self._shape)

    @property
    def diff_tensor(self) -> torch.Tensor:
        """The gradient where the net computes."""
        return self._diff_memory().tensor()[: self.count].view(self._shape)

    @property
    def _gpu_data_ptr(self) -> int:
        return self._gpu_pointer(self._data_memory())

    @property
    def _gpu_diff_ptr(self) -> int:
        return self._gpu_pointer(self._diff_memory())

    def _gpu_pointer(self, memory: Memory) -> int:
        if self._device.type == "cpu":
            raise CaffeError("this blob lives on the CPU; make its net after set_mode_gpu")
        return memory.tensor().data_ptr()

    def _data_memory(self) -> Memory:
        return self._data

    def _diff_memory(self) -> Memory:
        if self._diff is None or self._diff.size < self.count:
            self._diff = self._allocate(max(self.count, self._data.size))
        return self._diff

    def set(self, values: torch.Tensor) -> None:
        """Take the shape and the values of a tensor."""
        self.reshape(*values.shape)
        own = self.tensor
        if values.data_ptr() != own.data_ptr() or values.numel() == 0:
            own.copy_(values.detach())

    def share_data(self, other: Blob, shape: Shape) -> None:
        """Be a view of another blob's data, in `shape` (Blob::ShareData)."""
        self._data, self._shape = other._data_memory(), tuple(shape)

    def share_diff(self, other: Blob) -> None:
        """Use another blob's diff (Blob::ShareDiff)."""
        self._diff = other._diff_memory()

    def _legacy(self, axis: int) -> int:
        if len(self._shape) > 4:
            raise CaffeError(f"a blob of {len(self._shape)} axes has no num, channels, height and width; use shape")
        return self._shape[axis] if axis < len(self._shape) else 1

    @property
    def num(self) -> int:
        return self._legacy(0)

    @property
    def channels(self) -> int:
        return self._legacy(1)

    @property
    def height(self) -> int:
        return self._legacy(2)

    @property
    def width(self) -> int:
        return self._legacy(3)

    def __repr__(self) -> str:
        return f"Blob{self._shape}"

    def canonical_axis(self, axis: int) -> int:
        """A non-negative axis for one that may count from the end."""
        return canonical_axis(axis, len(self._shape))


class ParameterBlob(Blob):
    """A Blob over a torch parameter: `data` is the parameter's memory, `diff` its `.grad`.

    Reshaping it to more elements gives the parameter new memory (net surgery).
    """

    def __init__(self, parameter: torch.nn.Parameter, shape: Shape | None = None):
        self._parameter = parameter
        super().__init__(device=parameter.device, dtype=parameter.dtype)
        self._shape = tuple(parameter.shape) if shape is None else shape
        self._data = Memory(parameter.data.view(-1))

    @property
    def parameter(self) -> torch.nn.Parameter:
        """The torch parameter behind this blob."""
        return self._parameter

    def reshape(self, *shape: int) -> None:
        self._data_memory()
        super().reshape(*shape)
        self._parameter.data = self._data.tensor()[: self.count].view(self._shape)
        if self._parameter.grad is not None:
            self._diff_memory()

    def _data_memory(self) -> Memory:
        current = self._parameter.data
        if self._data.tensor().data_ptr() != current.data_ptr():
            self._data = Memory(current.view(-1))
        return self._data

    def share_parameter_data(self, other: ParameterBlob) -> None:
        """Use another parameter's values, keeping a gradient of one's own."""
        self._parameter.data = other._parameter.data.view(self._parameter.shape)
        self._data = other._data_memory()

    def _diff_memory(self) -> Memory:
        grad = self._parameter.grad
        if grad is None or grad.numel() != self.count:
            grad = self._parameter.grad = torch.zeros_like(self._parameter, memory_format=torch.contiguous_format)
        if self._diff is None or self._diff.tensor().data_ptr() != grad.data_ptr():
            self._diff = Memory(grad.view(-1))
        return self._diff
