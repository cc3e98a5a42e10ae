"""Running a net on the CPU, without autograd, in fewer and faster steps than it has layers.

A convolution takes in the BatchNorm, Scale and Bias layers behind it and the sum its result goes into; activations work
in place; images are kept with their channels side by side, which oneDNN's convolutions like best, and weights are laid
out for it once. Results differ from those of the layers by rounding. What the caller asks for is never left out, and
parameters stay as they are: folded copies are kept, and made anew when a parameter has changed, whoever wrote it.
"""

from __future__ import annotations

import functools
import platform
from collections import defaultdict
from collections.abc import Mapping

import torch

from caffe_bridge import native
from caffe_bridge.graph import Graph
from caffe_bridge.inference_steps import (
    MAKES_NEW,
    AffineStep,
    FilterStep,
    PackedWeights,
    Step,
    activation,
    adds,
    filters_images,
    is_a,
    is_affine,
    is_sum,
)

Blobs = dict[str, torch.Tensor]


class InferencePlans:
    """A net's plans, one for each set of blobs asked for, and the weights they share.

    Args:
        graph: the net; its layers and parameters are read, never changed.
        phase: the net's; only TEST has plans.
    """

    def __init__(self, graph: Graph, phase: str):
        self._graph, self._phase = graph, phase
        self._plans: dict[frozenset[str], Plan] = {}
        self._weights = PackedWeights(graph)

    def apply(self, inputs: Mapping[str, torch.Tensor], place: torch.Tensor) -> bool:
        """Whether this pass can follow a plan: float32 on the CPU, and nobody watches layers run.

        Those who do are autograd, compilers and exporters, torch's function transforms and dispatch modes, and hooks.
        """
        return (
            not _watched()
            and available()
            and self._phase == "TEST"
            and place.device.type == "cpu"
            and place.dtype == torch.float32
            and all(type(value) in (torch.Tensor, torch.nn.Parameter) for value in inputs.values())
            and not any(
                node.layer._forward_hooks or node.layer._forward_pre_hooks or "forward" in vars(node.layer)
                for node in self._graph.nodes
            )
        )

    def run(self, inputs: Blobs, wanted: frozenset[str], place: torch.Tensor) -> Blobs:
        """The wanted blobs, contiguous. Raises LayerError as the layers do."""
        if wanted not in self._plans:
            self._plans[wanted] = Plan(self._graph, wanted, self._weights)
        self._weights.refresh()
        return self._plans[wanted].run(inputs, place)


@functools.cache
def available() -> bool:
    """Whether there are plans here: compiled kernels, and a torch with oneDNN on an x86 processor."""
    operations = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    return (
        native.load().loaded
        and platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in operations)
    )


def _watched() -> bool:
    return (
        torch.compiler.is_compiling()
        or torch.is_grad_enabled()
        or torch._C._get_tracing_state() is not None
        or torch.is_autocast_enabled("cpu")
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.nn.modules.module._has_any_global_hook()
        or not torch._C._get_mkldnn_enabled()
    )


class Plan:
    """The steps that make the wanted blobs of a net, and when each value is let go."""

    def __init__(self, graph: Graph, wanted: frozenset[str], weights: PackedWeights):
        planner = _Planner(graph, wanted, weights)
        self.steps = planner.steps()
        self._inputs = {name: planner.first[name] for name in graph.inputs}
        self._wanted = {name: planner.last[name] for name in wanted}
        seen = set(self._wanted.values())
        self._let_go: list[list[int]] = []
        for step in reversed(self.steps):
            values = dict.fromkeys((*step.reads, *step.makes))
            self._let_go.append([value for value in values if value not in seen])
            seen.update(values)
        self._let_go.reverse()

    def run(self, inputs: Blobs, place: torch.Tensor) -> Blobs:
        """The wanted blobs, contiguous."""
        values = {self._inputs[name]: tensor for name, tensor in inputs.items()}
        for step, let_go in zip(self.steps, self._let_go):
            values.update(zip(step.makes, step.run([values[value] for value in step.reads], place)))
            for value in let_go:
                del values[value]
        return {name: values[value].contiguous() for name, value in self._wanted.items()}


class _Planner:
    """Which layers run together.

    A blob's name stands for several values, one after the other, where layers work in place; here values are numbered.
    `first` and `last` are the first and last value of each name.
    """

    def __init__(self, graph: Graph, wanted: frozenset[str], weights: PackedWeights):
        self._nodes, self._weights = graph.nodes, weights
        self.first: dict[str, int] = {}
        self.last: dict[str, int] = {}
        self._reads: list[list[int]] = []
        self._makes: list[list[int]] = []
        self._readers: dict[int, list[int]] = defaultdict(list)
        count = 0
        for index, node in enumerate(graph.nodes):
            self._reads.append([self.last[name] for name in node.bottoms])
            self._makes.append(list(range(count, count := count + len(node.tops))))
            for value in self._reads[-1]:
                self._readers[value].append(index)
            for name, value in zip(node.tops, self._makes[-1]):
                self.first.setdefault(name, value)
                self.last[name] = value
        self._wanted = {self.last[name] for name in wanted}
        self._made = {self.first[name] for name in graph.inputs}
        self._owned: set[int] = set()
        self._planned: set[int] = set()

    def steps(self) -> list[Step]:
        """The steps in the layers' order; a step runs where its first layer stands."""
        steps = []
        for index, node in enumerate(self._nodes):
            if node.type != "Input" and index not in self._planned:
                steps.append(self._step(index))
                self._made.update(steps[-1].makes)
        return steps

    def _step(self, first: int) -> Step:
        node = self._nodes[first]
        filters, affine = filters_images(node), is_affine(node)
        group = [first]
        if filters or affine:
            while (reader := self._only_reader(group[-1])) is not None and is_affine(self._nodes[reader]):
                group.append(reader)
        reads = list(self._reads[first])
        overwrite = False
        if adds(node) and (reader := self._only_reader(group[-1])) is not None and is_sum(self._nodes[reader]):
            (other,) = set(self._reads[reader]) - set(self._makes[group[-1]])
            if other in self._made:
                group.append(reader)
                reads.append(other)
                overwrite = other != reads[0] and self._may_overwrite(other, group)
        activate = None
        if is_a(node, MAKES_NEW) and (reader := self._only_reader(group[-1])) is not None:
            activate = activation(self._nodes[reader])
            if activate is not None:
                group.append(reader)
        self._planned.update(group)
        makes = self._makes[group[-1]]
        if is_a(node, MAKES_NEW):
            self._owned.update(makes)
        nodes = [self._nodes[index] for index in group]
        if filters:
            return FilterStep(overwrite, self._weights, nodes, reads, makes, activate)
        if affine:
            return AffineStep(self._weights, nodes, reads, makes, activate)
        return Step(nodes, reads, makes, activate)

    def _only_reader(self, index: int) -> int | None:
        """The layer that alone reads what this one makes; None if there are others, or the caller wants it."""
        if len(self._makes[index]) != 1:
            return None
        (value,) = self._makes[index]
        readers = self._readers[value]
        return readers[0] if len(readers) == 1 and value not in self._wanted else None

    def _may_overwrite(self, value: int, group: list[int]) -> bool:
        """Whether the plan made this memory, and nobody has a view of it or reads it later than this step."""
        return (
            value in self._owned
            and value not in self._wanted
            and all(
                is_a(self._nodes[reader], MAKES_NEW) and (reader in self._planned or reader in group)
                for reader in self._readers[value]
            )
        )
