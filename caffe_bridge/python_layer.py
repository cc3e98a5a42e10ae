"""`type: "Python"` layers: native ones from the registry, everybody else's run as pycaffe layers over blobs."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from typing import Any

import torch

from caffe_bridge import registry
from caffe_bridge.blob import Blob, ParameterBlob
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer, Shape


class Phase(int):
    """TRAIN (0) or TEST (1): a number, as in BVLC's pycaffe, whose str is its name, as in MNC's."""

    def __str__(self) -> str:
        return ("TRAIN", "TEST")[self]

    __repr__ = __str__


TRAIN, TEST = Phase(0), Phase(1)


class BlobVec(list):
    """The learnable blobs of a user's layer."""

    def add_blob(self, *shape: int) -> None:
        """Append a zero blob of this shape; allowed in `setup`."""
        self.append(Blob(*shape))


class UserLayer:
    """What a user's Python layer derives from (`caffe.Layer`).

    A subclass defines setup, reshape, forward(bottom, top) and backward(top, propagate_down, bottom), where bottom and
    top are lists of `Blob`. Before `setup` it is given `param_str` (also `param_str_`), `phase` and `blobs`.
    """

    type = "Python"

    def __init__(self, param: Any = None):
        text = param.python_param.param_str if param is not None else ""
        self.param_str = self.param_str_ = text
        self.blobs = BlobVec()
        self.phase: int = TRAIN


class PythonLayer(Layer):
    """Runs a user's layer inside autograd (torch face) or directly over a net's blobs (pycaffe face).

    `user_layer` is the user's object; `top_blobs` are the blobs its `setup` and `reshape` were given.
    """

    bottoms = (0, None)
    tops = (0, None)

    def __init__(self, param: Any, bottom_shapes: Sequence[Shape], phase: str, user_class: type):
        self._user_class = user_class
        super().__init__(param, bottom_shapes, phase)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.bottom_blobs = [Blob(*shape) for shape in bottom_shapes]
        self.top_blobs = [Blob() for _ in self.param.top]
        self.user_layer = self._make_user_layer()
        self.user_layer.setup(self.bottom_blobs, self.top_blobs)
        for i, blob in enumerate(self.user_layer.blobs):
            parameter = self.add_blob(blob.shape)
            parameter.data.copy_(blob.tensor)
            self.user_layer.blobs[i] = ParameterBlob(parameter)
        self.user_layer.reshape(self.bottom_blobs, self.top_blobs)

    def _make_user_layer(self) -> Any:
        cls = self._user_class
        user_layer: Any = cls(self.param) if issubclass(cls, UserLayer) else cls()
        text = self.param.python_param.param_str
        user_layer.param_str = user_layer.param_str_ = text
        user_layer.phase = TRAIN if self.phase == "TRAIN" else TEST
        if not hasattr(user_layer, "blobs"):
            user_layer.blobs = BlobVec()
        return user_layer

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        for blob, shape in zip(self.bottom_blobs, bottom_shapes):
            blob.reshape(*shape)
        self.user_layer.reshape(self.bottom_blobs, self.top_blobs)
        return [blob.shape for blob in self.top_blobs]

    def adopt_parameter(self, index: int, blob: ParameterBlob) -> None:
        """Let the user's layer see the blob that stands for a (possibly shared) parameter."""
        self.user_layer.blobs[index] = blob

    def _follow_parameters(self) -> None:
        for i, blob in enumerate(self.user_layer.blobs):
            if blob.parameter is not self.blobs.parameter(i):
                self.adopt_parameter(i, ParameterBlob(self.blobs.parameter(i)))

    def forward_blobs(self, bottoms: list[Blob], tops: list[Blob]) -> None:
        """Reshape and forward, as Layer::Forward of Caffe."""
        self._follow_parameters()
        self.user_layer.reshape(bottoms, tops)
        self.user_layer.forward(bottoms, tops)

    def backward_blobs(self, tops: list[Blob], propagate_down: list[bool], bottoms: list[Blob]) -> None:
        """The user's backward: fills the bottoms' diffs and adds to its own blobs' diffs."""
        self.user_layer.backward(tops, propagate_down, bottoms)

    def forward(self, *bottoms: torch.Tensor) -> tuple[torch.Tensor, ...]:
        like = bottoms[0] if bottoms else None
        parameters = [self.blobs.parameter(i) for i in range(len(self.blobs))]
        tops = _UserForward.apply(self, len(bottoms), *bottoms, *parameters)
        return tuple(top if like is None else top.to(like.device, like.dtype) for top in tops)


class _UserForward(torch.autograd.Function):
    """One pass of a user's layer. Parameter gradients are added to `.grad` by the layer itself, as in Caffe."""

    @staticmethod
    def forward(ctx: Any, layer: PythonLayer, count: int, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        bottoms = tensors[:count]
        for blob, value in zip(layer.bottom_blobs, bottoms):
            blob.set(value)
        layer.forward_blobs(layer.bottom_blobs, layer.top_blobs)
        tops = tuple(blob.tensor.clone() for blob in layer.top_blobs)
        ctx.layer, ctx.count = layer, count
        ctx.save_for_backward(*(blob.tensor.clone() for blob in layer.bottom_blobs), *tops)
        return tops

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        layer, count = ctx.layer, ctx.count
        for blob, value in zip(layer.bottom_blobs + layer.top_blobs, ctx.saved_tensors):
            blob.set(value)
        for blob, gradient in zip(layer.top_blobs, gradients):
            blob.diff_tensor.copy_(gradient)
        needed = list(ctx.needs_input_grad[2 : 2 + count])
        layer.backward_blobs(layer.top_blobs, needed, layer.bottom_blobs)
        down = [
            blob.diff_tensor.to(value.device, value.dtype, copy=True) if need else None
            for blob, value, need in zip(layer.bottom_blobs, ctx.saved_tensors, needed)
        ]
        return (None, None, *down, *[None] * len(layer.blobs))


def make_python_layer(param: Any, bottom_shapes: list[Shape], phase: str, python_layers: str) -> Layer:
    """The layer a Python LayerParameter names: registered first, then, if allowed, imported.

    Args:
        python_layers: "registered" or "import"; only the latter imports the module that the prototxt names.

    Raises:
        LayerError: nothing is registered under the name and importing is off or fails.
    """
    module, name = param.python_param.module, param.python_param.layer
    cls = registry.python_layer_class(module, name)
    if cls is None:
        if python_layers != "import":
            raise LayerError(
                f"no Python layer is registered as ({module!r}, {name!r}); register the class with "
                "@caffe_bridge.register_python, or pass python_layers='import' if you trust this prototxt"
            )
        cls = _import_layer(module, name)
    if issubclass(cls, Layer):
        return cls(param, bottom_shapes, phase)
    return PythonLayer(param, bottom_shapes, phase, cls)


def _import_layer(module: str, name: str) -> type:
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise LayerError(f"cannot import Python module '{module}': {error}") from error
    cls = getattr(found, name, None)
    if not isinstance(cls, type):
        near = difflib.get_close_matches(name, vars(found), n=1)
        raise LayerError(f"module '{module}' has no layer '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
    return cls
