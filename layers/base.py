"""The class every Caffe layer derives from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from caffe_bridge.errors import LayerError

Shape = tuple[int, ...]
Function = TypeVar("Function", bound=Callable[..., Any])

MAX_COUNT = 2**31 - 1


class BlobList(torch.nn.Module):
    """A layer's learnable blobs, in Caffe's order; an entry may share another layer's parameter.

    A shared parameter is one object in every layer that uses it. Where the shapes differ (share_mode PERMISSIVE)
    indexing gives a view of the owner's parameter in this layer's shape.
    """

    def __init__(self) -> None:
        super().__init__()
        self._views: dict[int, Shape] = {}

    def __len__(self) -> int:
        return len(self._parameters)

    def __getitem__(self, index: int) -> torch.Tensor:
        parameter = self.parameter(index)
        shape = self._views.get(index % len(self))
        return parameter if shape is None else parameter.view(shape)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[i] for i in range(len(self)))

    def parameter(self, index: int) -> torch.nn.Parameter:
        """The parameter itself, in its owner's shape."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"blob {index} of {len(self)}")
        parameter = self._parameters[str(index % len(self))]
        assert parameter is not None
        return parameter

    def append(self, parameter: torch.nn.Parameter) -> None:
        """Add a blob of the layer's own."""
        self.register_parameter(str(len(self)), parameter)

    def share(self, index: int, parameter: torch.nn.Parameter) -> None:
        """Use another layer's parameter for blob `index`; the element counts must agree."""
        shape = tuple(self[index].shape)
        if shape != tuple(parameter.shape):
            self._views[index] = shape
        self._parameters[str(index)] = parameter


class Layer(torch.nn.Module):
    """One Caffe layer: built from its LayerParameter, its bottoms' shapes and the phase.

    A subclass declares how many bottoms and tops it takes, creates its parameters in `setup`, says in
    `top_shapes` what it makes, and computes in `forward`. It is a pure function of its bottoms, parameters
    and own state: in-place operation, splitting, freeing and sharing are the net's business.

    Args:
        param: the LayerParameter message; the layer may edit it (it is the net's own copy).
        bottom_shapes: shape of each bottom at set-up.
        phase: "TRAIN" or "TEST".

    Raises:
        LayerError: wrong number of bottoms or tops, or shapes or parameters Caffe would refuse.

    Class attributes:
        bottoms, tops: (fewest, most) blobs; None for no limit.
        same_count: as many tops as bottoms (Caffe's EqualNumBottomTopBlobs).
        auto_tops: missing tops are made by the net (Caffe's AutoTopBlobs; the losses).
        is_loss: the first top has loss weight 1 unless the prototxt says otherwise.
        shares_data: the tops are views of the first bottom (Split, Flatten, Reshape) or, of a layer without bottoms,
            of its blob (Parameter).
        no_gradient (or set in `setup`): bottoms whose gradient Caffe refuses to compute (labels);
            ALL_BOTTOMS for layers without a backward pass.
        constants: bottoms the layer takes as constants; they get no gradient, and asking for it is no error.
    """

    ALL_BOTTOMS: ClassVar[range] = range(1 << 20)

    bottoms: ClassVar[tuple[int, int | None]] = (1, 1)
    tops: ClassVar[tuple[int, int | None]] = (1, 1)
    same_count: ClassVar[bool] = False
    auto_tops: ClassVar[bool] = False
    is_loss: ClassVar[bool] = False
    shares_data: ClassVar[bool] = False
    source: ClassVar[str] = "BVLC"
    no_gradient: Iterable[int] = ()
    constants: Iterable[int] = ()

    def __init__(self, param: Any, bottom_shapes: Sequence[Shape], phase: str):
        super().__init__()
        self.param = param
        self.phase = phase
        self.blobs = BlobList()
        self.fillers: list[Any] = []
        self._check_count("bottom", len(bottom_shapes), self.bottoms)
        self._check_count("top", len(param.top), self.tops)
        if self.same_count and len(param.top) != len(bottom_shapes):
            given, named = len(bottom_shapes), len(param.top)
            raise LayerError(f"makes as many tops as it has bottoms: {given} given, {named} named")
        self.setup([tuple(shape) for shape in bottom_shapes])

    def _check_count(self, what: str, count: int, limits: tuple[int, int | None]) -> None:
        low, high = limits
        if count < low or (high is not None and count > high):
            wanted = str(low) if low == high else f"at least {low}" if high is None else f"{low} to {high}"
            raise LayerError(f"takes {wanted} {what}(s), {count} given")

    def setup(self, bottom_shapes: list[Shape]) -> None:
        """Read the parameters and create the blobs, once."""

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        """Shape of each top for bottoms of these shapes, without computing anything.

        Where a shape depends on data, the shape Caffe gives before the first forward pass.
        """
        return [bottom_shapes[0]] * len(self.param.top)

    # Takes the bottoms, returns the tops in order (a bare tensor when there is one). Declared as torch does, so that
    # a layer may name its bottoms.
    forward: Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]

    def allow_force_backward(self, bottom: int) -> bool:
        """Whether `force_backward` may ask for this bottom's gradient."""
        return not self.stops_gradient(bottom)

    def sets_gradient(self, blob: int, bottom_shapes: Sequence[Shape]) -> bool:
        """Whether Caffe's backward sets this blob's diff instead of adding to it, for bottoms of these shapes.

        The pycaffe face follows it; in the torch face gradients add up, as torch's do.
        """
        return False

    def stops_gradient(self, bottom: int) -> bool:
        """Whether this bottom never gets a gradient, by refusal or as a constant."""
        return bottom in self.no_gradient or bottom in self.constants

    def add_blob(self, shape: Sequence[int], filler: Any = None) -> torch.nn.Parameter:
        """Append a learnable blob; `filler` is a FillerParameter, None for zeros.

        The net runs the filler once it knows that no weights file provides the blob.
        """
        size = tuple(int(d) for d in shape)
        check_shape(f"parameter {len(self.blobs)}", size)
        # NumPy's zeros are mapped, not written: a parameter that is shared or loaded later costs nothing here.
        try:
            blob = torch.nn.Parameter(torch.from_numpy(np.zeros(size, np.float32)))
        except MemoryError:
            raise LayerError(f"there is no memory for parameter {len(self.blobs)} of shape {size}") from None
        self.blobs.append(blob)
        self.fillers.append(filler)
        return blob

    def fix_multiplier(self, index: int, lr_mult: float = 0.0, decay_mult: float = 0.0) -> None:
        """Set a blob's multipliers in the LayerParameter, adding ParamSpecs up to it (running statistics use it)."""
        while len(self.param.param) <= index:
            self.param.param.add()
        self.param.param[index].lr_mult = lr_mult
        self.param.param[index].decay_mult = decay_mult


def eager(function: Function) -> Function:
    """Keep a function out of compiled graphs, as torch.compiler.disable does, without importing the compiler now."""
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    return function


def check_shape(what: str, shape: Sequence[int]) -> None:
    """Raise LayerError for a shape Caffe cannot hold: a negative dimension, or more than 2**31 - 1 elements."""
    if any(d < 0 for d in shape) or math.prod(shape) > MAX_COUNT:
        raise LayerError(f"{what} would have shape {tuple(shape)}; Caffe allows 0 to {MAX_COUNT} elements")


def canonical_axis(axis: int, ndim: int) -> int:
    """A non-negative axis for one that may count from the end.

    Raises LayerError when it lies outside [-ndim, ndim).
    """
    if not -ndim <= axis < ndim:
        raise LayerError(f"axis {axis} is outside [-{ndim}, {ndim}) of a {ndim}-axis blob")
    return axis % ndim
