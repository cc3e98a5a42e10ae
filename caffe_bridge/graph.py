"""From a net definition to layers that are wired, share parameters and know who gets a gradient."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from caffe_bridge import registry, schema
from caffe_bridge.definition import NetDefinition
from caffe_bridge.errors import CaffeError, LayerError
from caffe_bridge.layers.base import Layer, Shape, check_shape
from caffe_bridge.python_layer import PythonLayer, make_python_layer

AUTOMATIC_TOP = "(automatic)"


@dataclass
class Node:
    """One layer in its place: the blobs it reads and makes, and what Caffe's rules say of its gradients.

    `need_backward` and `bottom_need_backward` follow Net::Init of Caffe, `param_need_backward` lr_mult and
    force_backward. `loss_weights` has one number per top. `cut` marks the bottoms whose gradient the prototxt
    or the layer itself stops.
    """

    layer: Layer
    name: str
    type: str
    bottoms: list[str]
    tops: list[str]
    where: str
    loss_weights: list[float]
    cut: list[bool]
    need_backward: bool = False
    bottom_need_backward: list[bool] = field(default_factory=list)
    param_need_backward: list[bool] = field(default_factory=list)
    accepted: list[Shape] | None = None

    def accept(self, bottom_shapes: list[Shape]) -> list[Shape] | None:
        """Let the layer refuse bottom shapes it has not seen last time; returns the top shapes if they are new."""
        if bottom_shapes == self.accepted:
            return None
        top_shapes = [tuple(int(d) for d in shape) for shape in self.layer.top_shapes(bottom_shapes)]
        for name, shape in zip(self.tops, top_shapes):
            check_shape(f"top '{name}'", shape)
        self.accepted = bottom_shapes
        return top_shapes

    def run(self, bottoms: Sequence[torch.Tensor], place: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The layer's tops; a layer without bottoms makes them on the device and in the dtype of `place`.

        Raises:
            LayerError: the layer cannot run on these bottoms; names it and their shapes.
        """
        bottoms = [bottom.detach() if cut else bottom for bottom, cut in zip(bottoms, self.cut)]
        try:
            if not torch.compiler.is_compiling():
                self.accept([tuple(b.shape) for b in bottoms])
            tops = self.layer(*bottoms)
        except LayerError as error:
            raise self.located(error, [tuple(b.shape) for b in bottoms]) from error
        except (RuntimeError, IndexError, ValueError) as error:
            users_own = isinstance(error, CaffeError) or isinstance(self.layer, PythonLayer)
            if users_own or torch.compiler.is_compiling():
                raise
            raise self.located(error, [tuple(b.shape) for b in bottoms]) from error
        tops = (tops,) if isinstance(tops, torch.Tensor) else tops
        if not self.bottoms:
            tops = tuple(top.to(place.device, place.dtype) for top in tops)
        return tops

    def located(self, error: Exception, bottom_shapes: Sequence[Sequence[int]]) -> LayerError:
        """The layer's own error, or the first line of what torch raised, with its name, type, place and shapes."""
        own = error
        if not isinstance(own, LayerError):
            own = LayerError((str(error).splitlines() or [type(error).__name__])[0])
        return own.located(self.name, self.type, self.where, bottom_shapes)


@dataclass
class Graph:
    """The wired layers of a net.

    `shapes` holds every blob's shape at build time, `inputs` the tops of Input layers, `outputs` the blobs no
    layer reads (sorted, as Caffe lists them). `owners[layer name][i]` is (layer name, index) of the parameter that
    `layer.blobs[i]` shares, itself if it shares none.
    """

    nodes: list[Node]
    shapes: dict[str, Shape]
    inputs: list[str]
    outputs: list[str]
    owners: dict[str, list[tuple[str, int]]]


def build_graph(definition: NetDefinition, phase: str, python_layers: str = "registered") -> Graph:
    """Create and wire the layers of a filtered, upgraded definition.

    Args:
        definition: from `caffe_bridge.definition.read_net`, with or without explicit splits.
        phase: "TRAIN" or "TEST".
        python_layers: "registered" runs only registered Python layers, "import" imports what the file names.

    Raises:
        LayerError: naming layer, type, file:line and bottom shapes, for an unknown type, a bottom that no earlier
            layer makes, a top made twice, wrong parameters or shapes, or parameters that cannot be shared.
    """
    nodes: list[Node] = []
    shapes: dict[str, Shape] = {}
    unread: set[str] = set()
    inputs: list[str] = []
    made_grad: dict[str, bool] = {}
    sharing = _Sharing()
    for index, original in enumerate(definition.param.layer):
        param = type(original)()
        param.CopyFrom(original)
        where = definition.where(index)
        bottom_shapes: list[Shape] = []
        try:
            bottoms = [_bottom(name, shapes, definition) for name in param.bottom]
            bottom_shapes = [shapes[name] for name in bottoms]
            layer = _make_layer(param, bottom_shapes, phase, python_layers)
            node = _wire(layer, param, bottoms, where, shapes, unread)
            made = node.accept(bottom_shapes) or []
            if len(made) != len(node.tops):
                raise LayerError(f"makes {len(made)} top(s), {len(node.tops)} named")
            sharing.add(node, param)
        except LayerError as error:
            raise error.located(param.name, param.type, where, bottom_shapes) from error
        _mark_gradients(node, param, original, made_grad)
        for name, shape in zip(node.tops, made):
            shapes[name] = shape
        if param.type == "Input":
            inputs += node.tops
        nodes.append(node)
    _keep_what_reaches_a_loss(nodes)
    if definition.param.force_backward:
        _force_backward(nodes)
    for node in nodes:
        for i, needed in enumerate(node.param_need_backward):
            node.layer.blobs.parameter(i).requires_grad_(needed)
    return Graph(nodes, shapes, inputs, sorted(unread), sharing.owners)


def _bottom(name: str, shapes: dict[str, Shape], definition: NetDefinition) -> str:
    if name in shapes:
        return name
    near = difflib.get_close_matches(name, shapes, n=1)
    later = any(name in layer.top for layer in definition.param.layer)
    hint = "; it is made further down" if later else f"; did you mean '{near[0]}'?" if near else ""
    raise LayerError(f"bottom '{name}' is made by no earlier layer{hint}")


def _make_layer(param: Any, bottom_shapes: list[Shape], phase: str, python_layers: str) -> Layer:
    if param.HasField("phase"):
        phase = "TRAIN" if param.phase == schema.TRAIN else "TEST"
    if param.type == "Python":
        return make_python_layer(param, bottom_shapes, phase, python_layers)
    cls = registry.layer_class(param.type)
    if cls.auto_tops:
        while len(param.top) < cls.tops[0]:
            param.top.append(AUTOMATIC_TOP)
    return cls(param, bottom_shapes, phase)


def _wire(layer: Layer, param: Any, bottoms: list[str], where: str, shapes: dict[str, Shape], unread: set[str]) -> Node:
    if len(param.propagate_down) not in (0, len(bottoms)):
        raise LayerError(f"propagate_down is given {len(param.propagate_down)} times for {len(bottoms)} bottoms")
    unread.difference_update(bottoms)
    tops = list(param.top)
    for i, name in enumerate(tops):
        if name == AUTOMATIC_TOP:
            tops[i] = f"{param.name}{AUTOMATIC_TOP}"
            continue
        in_place = i < len(bottoms) and bottoms[i] == name
        if name in shapes and not in_place:
            raise LayerError(f"top '{name}' is already made by an earlier layer")
        if name in tops[:i]:
            raise LayerError(f"top '{name}' is named twice")
        unread.add(name)
    weights = list(param.loss_weight)
    if weights and len(weights) != len(tops):
        raise LayerError(f"loss_weight is given {len(weights)} times for {len(tops)} tops")
    if not weights:
        weights = [1.0 if layer.is_loss and i == 0 else 0.0 for i in range(len(tops))]
    stopped = [not down for down in param.propagate_down] or [False] * len(bottoms)
    cut = [stop or layer.stops_gradient(i) for i, stop in enumerate(stopped)]
    return Node(layer, param.name, param.type, bottoms, tops, where, weights, cut)


class _Sharing:
    """Parameters shared by name, as Net::AppendParam of Caffe does it."""

    def __init__(self) -> None:
        self.owners: dict[str, list[tuple[str, int]]] = {}
        self._named: dict[str, tuple[Node, int, Any]] = {}

    def add(self, node: Node, param: Any) -> None:
        layer = node.layer
        if len(param.param) > len(layer.blobs):
            raise LayerError(f"{len(param.param)} param entries for {len(layer.blobs)} parameter blob(s)")
        while len(param.param) < len(layer.blobs):
            param.param.add()
        owners = self.owners.setdefault(node.name, [])
        for i, spec in enumerate(param.param):
            if not spec.name or spec.name not in self._named:
                owners.append((node.name, i))
                if spec.name:
                    self._named[spec.name] = (node, i, spec)
                continue
            owner, j, owner_spec = self._named[spec.name]
            self._check_multipliers(spec, owner_spec, owner.name)
            shared, own = owner.layer.blobs.parameter(j), layer.blobs.parameter(i)
            if shared.shape != own.shape:
                permissive = spec.share_mode == spec.PERMISSIVE
                if not permissive or shared.numel() != own.numel():
                    raise LayerError(
                        f"parameter '{spec.name}' of shape {tuple(own.shape)} cannot share that of layer "
                        f"'{owner.name}', shape {tuple(shared.shape)}"
                        + ("" if permissive else "; share_mode: PERMISSIVE compares sizes only")
                    )
            layer.blobs.share(i, shared)
            layer.fillers[i] = None
            owners.append((owner.name, j))

    @staticmethod
    def _check_multipliers(spec: Any, owner_spec: Any, owner: str) -> None:
        for key in ("lr_mult", "decay_mult"):
            if not spec.HasField(key):
                if owner_spec.HasField(key):
                    setattr(spec, key, getattr(owner_spec, key))
            elif not owner_spec.HasField(key):
                setattr(owner_spec, key, getattr(spec, key))
            elif getattr(spec, key) != getattr(owner_spec, key):
                raise LayerError(f"shared parameter '{spec.name}' has another {key} in layer '{owner}'")


def _mark_gradients(node: Node, param: Any, original: Any, made_grad: dict[str, bool]) -> None:
    # Whether the layer runs backward follows from the multipliers in the file, as in Caffe: a BatchNorm without any
    # does, though the layer freezes its statistics itself.
    given = [spec.lr_mult for spec in original.param]
    learns = any(given) or len(given) < len(node.layer.blobs)
    reached = [made_grad[name] for name in node.bottoms]
    node.bottom_need_backward = list(param.propagate_down) or list(reached)
    node.param_need_backward = [spec.lr_mult != 0 for spec in param.param]
    node.need_backward = any(reached) or learns
    for name in node.tops:
        made_grad[name] = made_grad.get(name, False) or node.need_backward


def _keep_what_reaches_a_loss(nodes: list[Node]) -> None:
    under_loss: set[str] = set()
    skipped: set[str] = set()
    for node in reversed(nodes):
        contributes = any(weight or top in under_loss for weight, top in zip(node.loss_weights, node.tops))
        skip = all(top in skipped for top in node.tops)
        if node.need_backward and skip:
            node.need_backward = False
            node.bottom_need_backward = [False] * len(node.bottoms)
        if contributes:
            under_loss.update(node.bottoms)
        else:
            node.need_backward = False
            node.bottom_need_backward = [False] * len(node.bottoms)
        skipped.update(name for name, need in zip(node.bottoms, node.bottom_need_backward) if not need)


def _force_backward(nodes: list[Node]) -> None:
    for node in nodes:
        node.need_backward = True
        node.bottom_need_backward = [
            need or node.layer.allow_force_backward(i) for i, need in enumerate(node.bottom_need_backward)
        ]
        node.param_need_backward = [True] * len(node.param_need_backward)
