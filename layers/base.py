"""The class every Caffe layer derives from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch

from caffe_bridge.errors import LayerError

Shape = tuple[int, ...]


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
        shares_data: the tops are views of the first bottom (Split, Flatten, Reshape).
        no_gradient: bottoms whose gradient Caffe refuses to compute (labels); negative indices are not used.
            `no_gradient = ALL_BOTTOMS` for layers without a backward pass.
    """

    ALL_BOTTOMS: ClassVar[range] = range(1 << 20)

    bottoms: ClassVar[tuple[int, int | None]] = (1, 1)
    tops: ClassVar[tuple[int, int | None]] = (1, 1)
    same_count: ClassVar[bool] = False
    auto_tops: ClassVar[bool] = False
    is_loss: ClassVar[bool] = False
    shares_data: ClassVar[bool] = False
    no_gradient: ClassVar[Iterable[int]] = ()
    source: ClassVar[str] = "BVLC"

    def __init__(self, param: Any, bottom_shapes: Sequence[Shape], phase: str):
        super().__init__()
        self.param = param
        self.phase = phase
        self.blobs = torch.nn.ParameterList()
        self.fillers: list[Any] = []
        self._check_count("bottom", len(bottom_shapes), self.bottoms)
        self._check_count("top", len(param.top), self.tops)
        if self.same_count and len(param.top) != len(bottom_shapes):
            raise LayerError(f"makes as many tops as it has bottoms: {len(bottom_shapes)} given, {len(param.top)} named")
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

    def forward(self, *bottoms: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The tops, in order (a bare tensor when there is one)."""
        raise NotImplementedError

    def allow_force_backward(self, bottom: int) -> bool:
        """Whether `force_backward` may ask for this bottom's gradient."""
        return bottom not in self.no_gradient

    def add_blob(self, shape: Sequence[int], filler: Any = None) -> torch.nn.Parameter:
        """Append a learnable blob; `filler` is a FillerParameter, None for zeros.

        The net runs the filler once it knows that no weights file provides the blob.
        """
        blob = torch.nn.Parameter(torch.zeros(tuple(int(d) for d in shape)))
        self.blobs.append(blob)
        self.fillers.append(filler)
        return blob

    def fix_multiplier(self, index: int, lr_mult: float = 0.0, decay_mult: float = 0.0) -> None:
        """Set a blob's multipliers in the LayerParameter, adding ParamSpecs up to it (running statistics use it)."""
        while len(self.param.param) <= index:
            self.param.param.add()
        self.param.param[index].lr_mult = lr_mult
        self.param.param[index].decay_mult = decay_mult


def canonical_axis(axis: int, ndim: int) -> int:
    """A non-negative axis for one that may count from the end.

    Raises LayerError when it lies outside [-ndim, ndim).
    """
    if not -ndim <= axis < ndim:
        raise LayerError(f"axis {axis} is outside [-{ndim}, {ndim}) of a {ndim}-axis blob")
    return axis % ndim
