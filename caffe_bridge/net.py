"""A Caffe net as a torch module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from caffe_bridge import definition as definitions
from caffe_bridge import fillers, schema
from caffe_bridge.errors import CaffeError, LayerError
from caffe_bridge.graph import Graph, Node, build_graph
from caffe_bridge.inference_plan import InferencePlans
from caffe_bridge.layers.base import Layer

WeightPaths = str | Path | Sequence[str | Path]


class LayerMap(torch.nn.Module):
    """The layers of a net under their Caffe names."""

    def add(self, name: str, layer: Layer) -> None:
        """Add a layer; torch forbids dots in module names, so they become %2E in state_dict keys.

        Layers without parameters may share a name; those after the first are kept under a number besides.
        """
        key = name.replace("%", "%25").replace(".", "%2E")
        self._modules[f"{key}%23{len(self)}" if key in self._modules else key] = layer

    def __len__(self) -> int:
        return len(self._modules)


class Net(torch.nn.Module):
    """A net from a prototxt, run by torch with autograd.

    Args:
        prototxt: a path, the text itself, a NetParameter message, or a NetDefinition (which has its phase).
        weights: a .caffemodel or .caffemodel.h5 file, or several (comma-separated or a sequence); later ones win.
        phase: "TRAIN" or "TEST"; chooses layers and their behaviour, as in Caffe (not `train()` and `eval()`).
        stages, level: the rest of Caffe's NetState.
        python_layers: "registered", or "import" to import the modules that Python layers name.

    Attributes:
        optimize: whether passes in TEST without autograd may follow a plan, which runs several layers as one (on x86
            processors; `caffe_bridge.inference_plan`). Results differ by rounding.

    Gradients are those of Caffe's layers. Parameters whose lr_mult is 0 do not require a gradient; bottoms whose
    `propagate_down` is false pass none.

    Raises:
        PrototxtError: the definition cannot be read.
        LayerError: a layer cannot be built; names the layer, its type, file:line and bottom shapes.
        WeightsError: a weights file cannot be read or does not fit.
    """

    _placement: torch.Tensor
    optimize = True

    def __init__(
        self,
        prototxt: Any,
        weights: WeightPaths | None = None,
        *,
        phase: str = "TEST",
        stages: Iterable[str] = (),
        level: int = 0,
        python_layers: str = "registered",
    ):
        super().__init__()
        if phase not in ("TRAIN", "TEST"):
            raise CaffeError(f"phase is 'TRAIN' or 'TEST', not {phase!r}")
        self._python_layers = python_layers
        if not isinstance(prototxt, definitions.NetDefinition):
            prototxt = definitions.read_net(prototxt, phase, tuple(stages), level)
        self._phase = schema.Phase.Name(prototxt.param.state.phase)
        self._build(prototxt)
        loaded: set[tuple[str, int]] = set()
        for path in _paths(weights):
            report = self.load(path)
            loaded.update(report.loaded)
        self.fill(keep=loaded)

    def _build(self, definition: definitions.NetDefinition) -> None:
        self._definition = definition
        self._graph = build_graph(definition, self._phase, self._python_layers)
        self.layers = LayerMap()
        names = Counter(node.name for node in self._graph.nodes)
        for node in self._graph.nodes:
            if names[node.name] > 1 and len(node.layer.blobs):
                raise CaffeError(f"two layers are named '{node.name}'; parameters and weights are found by layer name")
            self.layers.add(node.name, node.layer)
        self.register_buffer("_placement", torch.empty(0), persistent=False)
        self._last_use = _last_uses(self._graph)
        self._plans = InferencePlans(self._graph, self._phase)

    # -- what it is made of ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The net's name in its prototxt."""
        return self._definition.param.name

    @property
    def phase(self) -> str:
        """ "TRAIN" or "TEST"."""
        return self._phase

    @property
    def graph(self) -> Graph:
        """The wired layers."""
        return self._graph

    @property
    def definition(self) -> definitions.NetDefinition:
        """The upgraded, filtered definition."""
        return self._definition

    @property
    def inputs(self) -> list[str]:
        """The blobs `forward` takes."""
        return list(self._graph.inputs)

    @property
    def outputs(self) -> list[str]:
        """The blobs `forward` returns: those no layer reads, and every loss."""
        losses = [top for node in self._graph.nodes for top, w in zip(node.tops, node.loss_weights) if w]
        return self._graph.outputs + [name for name in losses if name not in self._graph.outputs]

    @property
    def params(self) -> dict[str, list[torch.Tensor]]:
        """Layer name to its parameters in Caffe's order; a shared parameter is one object."""
        return {node.name: list(node.layer.blobs) for node in self._graph.nodes if len(node.layer.blobs)}

    # -- weights -----------------------------------------------------------------------------------------

    def fill(self, keep: Iterable[tuple[str, int]] = ()) -> None:
        """Run every parameter's filler, except for the (layer name, index) pairs in `keep`."""
        kept = set(keep)
        for node in self._graph.nodes:
            for i, filler in enumerate(node.layer.fillers):
                owned = self._graph.owners[node.name][i] == (node.name, i)
                if owned and filler is not None and (node.name, i) not in kept:
                    try:
                        fillers.fill(node.layer.blobs.parameter(i), filler)
                    except LayerError as error:
                        raise node.located(error, []) from error

    def load(self, path: str | Path, *, ignore_shapes: bool = False) -> Any:
        """Copy parameters from a weights file by layer name; returns a LoadReport of what matched and what did not.

        Raises WeightsError naming file, layer and shapes, unless `ignore_shapes` skips parameters of other shapes.
        """
        from caffe_bridge import weights

        with weights.read(path) as source:
            return weights.load_into(self.params, source, shared=self._graph.owners, ignore_shapes=ignore_shapes)

    def save(self, path: str | Path, *, with_gradients: bool = False) -> None:
        """Write definition and parameters as .caffemodel, or Caffe's HDF5 layout if the name ends in .h5.

        `with_gradients` adds the parameters' gradients as diffs (snapshot_diff of a solver).
        """
        from caffe_bridge import weights

        diffs = None
        if with_gradients:
            diffs = {
                node.name: [_gradient(node.layer.blobs.parameter(i)) for i in range(len(node.layer.blobs))]
                for node in self._graph.nodes
            }
        weights.save_net(path, self._definition.param, self.params, self._graph.owners, diffs=diffs)

    # -- running -----------------------------------------------------------------------------------------

    def forward(self, *, blobs: Sequence[str] = (), **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the net.

        Args:
            inputs: one tensor for each input blob, of any shape the layers accept.
            blobs: names of intermediate blobs to return as well.

        Returns:
            name to tensor: the output blobs, the losses (not multiplied by their weights) and `blobs`.

        Raises:
            CaffeError: an input is missing or unknown, or a requested blob does not exist.
            LayerError: a layer cannot run on what it was given; names the layer and its bottom shapes.
        """
        values = self._place(inputs)
        wanted = set(self.outputs)
        for name in blobs:
            if name not in self._graph.shapes:
                raise CaffeError(f"no blob is named '{name}'; the net has {', '.join(self._graph.shapes)}")
            wanted.add(name)
        if self.optimize and self._plans.apply(values, self._placement):
            made = self._plans.run(values, frozenset(wanted), self._placement)
            return {name: made[name] for name in (*self.outputs, *blobs)}
        for i, node in enumerate(self._graph.nodes):
            if node.type != "Input":
                self._run(node, values)
            for name in self._last_use[i]:
                if name not in wanted:
                    del values[name]
        return {name: values[name] for name in (*self.outputs, *blobs)}

    def _place(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        unknown = sorted(set(inputs) - set(self._graph.inputs))
        missing = [name for name in self._graph.inputs if name not in inputs]
        if unknown or missing:
            wrong = [f"unknown input '{name}'" for name in unknown] + [f"input '{name}' is missing" for name in missing]
            raise CaffeError(f"{'; '.join(wrong)} (the net takes {', '.join(self._graph.inputs) or 'no inputs'})")
        place = self._placement
        return {name: torch.as_tensor(value).to(place.device, place.dtype) for name, value in inputs.items()}

    def _run(self, node: Node, values: dict[str, torch.Tensor]) -> None:
        values.update(zip(node.tops, node.run([values[name] for name in node.bottoms], self._placement)))

    def loss(self, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The total loss of what `forward` returned: the sum of the loss blobs times their loss weights."""
        total = self._placement.new_zeros(())
        for node in self._graph.nodes:
            for top, weight in zip(node.tops, node.loss_weights):
                if weight:
                    total = total + weight * outputs[top].sum()
        return total

    def summary(self) -> str:
        """A table of layers, tops, shapes, parameter counts and multiply-accumulates at the prototxt's shapes."""
        from caffe_bridge.summary import summarize

        return summarize(self._graph)

    # -- copying -----------------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        args = (self._definition.param.SerializeToString(), self._definition.path, self._definition.lines)
        state = (self.state_dict(), [p.requires_grad for p in self.parameters()], self.training)
        return _rebuild, (type(self), *args, self._phase, self._python_layers), state

    def __setstate__(self, state: Any) -> None:
        values, requires_grad, training = state
        for value in values.values():
            if value.is_floating_point():
                self.to(value.device, value.dtype)
                break
        self.load_state_dict(values)
        for parameter, needed in zip(self.parameters(), requires_grad):
            parameter.requires_grad_(needed)
        self.train(training)


def _rebuild(cls: type[Net], data: bytes, path: str, lines: list[int | None], phase: str, python_layers: str) -> Net:
    net = cls.__new__(cls)
    torch.nn.Module.__init__(net)
    net._phase, net._python_layers = phase, python_layers
    net._build(definitions.NetDefinition(schema.NetParameter.FromString(data), path, lines))
    return net


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _paths(weights: WeightPaths | None) -> list[str]:
    if weights is None:
        return []
    if isinstance(weights, (str, Path)):
        weights = str(weights).split(",")
    return [str(path) for path in weights if str(path)]


def _last_uses(graph: Graph) -> list[list[str]]:
    """For each layer, the blobs that no later layer reads or makes."""
    seen: set[str] = set()
    uses: list[list[str]] = []
    for node in reversed(graph.nodes):
        names = dict.fromkeys((*node.bottoms, *node.tops))
        uses.append([name for name in names if name not in seen])
        seen.update(names)
    return uses[::-1]
