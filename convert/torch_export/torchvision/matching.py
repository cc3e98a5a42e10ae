"""A Caffe net's weights under the names of the torchvision network that has its structure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from caffe_bridge.convert.torch_export.torchvision.architectures import ARCHITECTURES, sketch
from caffe_bridge.convert.torch_export.torchvision.reading import read_structure
from caffe_bridge.convert.torch_export.torchvision.sketch import Edge, Pool, Sketch, Step
from caffe_bridge.errors import CaffeError
from caffe_bridge.net import Net

Signature = tuple[Any, ...]


@dataclass(frozen=True)
class TorchvisionWeights:
    """A state dict for a network of torchvision.

    Attributes:
        architecture: the name of the function in torchvision.models.
        state: for `load_state_dict` of the network made with num_classes=classes.
        classes: the number of its outputs.
        differences: what the network computes otherwise than the Caffe net does, although all weights fit.
    """

    architecture: str
    state: dict[str, torch.Tensor]
    classes: int
    differences: list[str]


def torchvision_weights(net: Net, architecture: str = "auto") -> TorchvisionWeights:
    """The weights of a net for a torchvision network, found by the structure of both and not by names.

    Layers with weights, sums and concatenations must be the same; strides, padding, pooling and activations may
    differ, and are then told. A convolution's bias in front of a batch norm moves into its mean, and variances take
    up another eps, so that these are exact. Number of classes and dropout do not matter. GoogLeNet is the one with
    aux_logits=False.

    Args:
        net: built with phase="TEST".
        architecture: a name in ARCHITECTURES, or "auto" for the one with the fewest differences.

    Raises CaffeError for an unknown architecture, and one that has another structure: it says where that begins.
    """
    output = read_structure(net)
    if architecture == "auto":
        found = [_match(net, output, name) for name in ARCHITECTURES if _alike(output, sketch(name))]
        if not found:
            raise CaffeError(f"net '{net.name}' has the structure of no network of torchvision known here")
        return min(found, key=lambda match: len(match.differences))
    if architecture not in ARCHITECTURES:
        near = difflib.get_close_matches(architecture, ARCHITECTURES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(ARCHITECTURES)}"
        raise CaffeError(f"no architecture is named '{architecture}'; {hint}")
    return _match(net, output, architecture)


def _alike(output: Edge, net: Sketch) -> bool:
    table: dict[Signature, int] = {}
    return _signatures(output.source, table)[output.source] == _signatures(net.output.source, table)[net.output.source]


def _match(net: Net, output: Edge, architecture: str) -> TorchvisionWeights:
    wanted = sketch(architecture)
    pairs = _pairs(net, output, wanted, architecture)
    found = {id(step): own for step, own in pairs.items()}
    state: dict[str, torch.Tensor] = {}
    for step in wanted.steps:
        state.update(_tensors(step, found[id(step)], found))
    differences = _differences(pairs, wanted.output, output)
    classes = next(own.shape[0] for step, own in pairs.items() if step.shape[:1] == (None,))
    assert classes is not None
    return TorchvisionWeights(architecture, state, classes, differences)


def _order(output: Step) -> list[Step]:
    """The steps a step is computed from and itself, each after those it reads."""
    done: dict[Step, None] = {}
    waiting = [(output, False)]
    while waiting:
        step, ready = waiting.pop()
        if ready:
            done[step] = None
        elif step not in done:
            waiting.append((step, True))
            waiting += [(edge.source, False) for edge in step.inputs]
    return list(done)


def _own(step: Step, is_last: bool) -> Signature:
    """What two steps have in common that stand for each other, apart from what they read."""
    if step.kind != "filter":
        return (step.kind, step.shape)
    volume = 1
    for length in step.shape[1:]:
        volume *= length or 1
    return ("filter", None if is_last else step.shape[0], volume, step.options["groups"])


def _last(output: Step) -> Step | None:
    """The filter whose outputs are the classes."""
    return output if output.kind == "filter" else None


def _signatures(output: Step, table: dict[Signature, int]) -> dict[Step, int]:
    """A number for each step; equal ones stand for equal networks up to there. `table` holds those given before."""
    last, numbers = _last(output), dict[Step, int]()
    for step in _order(output):
        below = [numbers[edge.source] for edge in step.inputs]
        own = (*_own(step, step is last), *(sorted(below) if step.kind == "add" else below))
        numbers[step] = table.setdefault(own, len(table))
    return numbers


def _pairs(net: Net, output: Edge, wanted: Sketch, architecture: str) -> dict[Step, Step]:
    """torchvision's step to the net's, for all. Raises CaffeError, saying what is lacking, for another structure."""
    table: dict[Signature, int] = {}
    own = _signatures(output.source, table)
    theirs = _signatures(wanted.output.source, table)
    if own[output.source] != theirs[wanted.output.source]:
        raise CaffeError(f"net '{net.name}' is not torchvision's {architecture}: {_unlike(output, wanted)}")
    pairs: dict[Step, Step] = {}
    waiting = [(wanted.output.source, output.source)]
    while waiting:
        step, found = waiting.pop()
        if step in pairs:
            continue
        pairs[step] = found
        inputs = [edge.source for edge in found.inputs]
        for edge in step.inputs:
            match = next(other for other in inputs if own[other] == theirs[edge.source])
            inputs.remove(match)
            waiting.append((edge.source, match))
    return pairs


def _unlike(output: Edge, wanted: Sketch) -> str:
    """How a net's layers differ from a network's."""
    last = (_last(output.source), _last(wanted.output.source))
    left = [step for step in _order(output.source) if step.kind != "input"]
    lacking = []
    for step in _order(wanted.output.source):
        if step.kind == "input":
            continue
        match = next((own for own in left if _own(own, own is last[0]) == _own(step, step is last[1])), None)
        if match is None:
            lacking.append(step)
        else:
            left.remove(match)
    parts = []
    if lacking:
        parts.append(f"the net has no counterpart of {_described(lacking[0])}{_more(lacking)}")
    if left:
        parts.append(f"the network has none of {_described(left[0])}{_more(left)}")
    return "; ".join(parts) or "the same layers are connected otherwise"


def _more(steps: list[Step]) -> str:
    return f" and {len(steps) - 1} more" if len(steps) > 1 else ""


def _described(step: Step) -> str:
    if step.kind != "filter":
        kinds = {"norm": "batch norm", "add": "a sum", "concat": "a concatenation", "input": "the input"}
        of = f" of {step.shape[0]} channels" if step.shape else ""
        name = f" '{step.key}'" if step.key else ""
        return f"{kinds.get(step.kind, step.kind)}{name}{of}"
    outputs = "any number of" if step.shape[0] is None else step.shape[0]
    if len(step.shape) == 2:
        return f"the fully connected layer '{step.key}', {step.shape[1]} to {outputs}"
    groups = step.options["groups"]
    kernel = "x".join(map(str, step.shape[2:]))
    grouped = f" in {groups} groups" if groups > 1 else ""
    return f"the {kernel} convolution '{step.key}', {(step.shape[1] or 0) * groups} to {outputs} channels{grouped}"


def _tensors(step: Step, own: Step, found: dict[int, Step]) -> dict[str, torch.Tensor]:
    """The state dict entries of a module."""
    if step.kind == "norm":
        channels = own.shape[0]
        assert channels is not None
        mean = own.blobs["running_mean"].detach()
        before = found[id(step.inputs[0].source)]
        if step.inputs[0].source.kind == "filter" and not step.inputs[0].source.options["bias"]:
            mean = mean - before.blobs["bias"].detach() if "bias" in before.blobs else mean
        made = {
            "weight": own.blobs.get("weight", torch.ones(channels)),
            "bias": own.blobs.get("bias", torch.zeros(channels)),
            "running_mean": mean,
            "running_var": own.blobs["running_var"].double() + (own.options["eps"] - step.options["eps"]),
            "num_batches_tracked": torch.tensor(0),
        }
    else:
        shape = (own.shape[0], *step.shape[1:])
        made = {"weight": own.blobs["weight"].reshape(shape)}
        if step.options["bias"]:
            made["bias"] = own.blobs.get("bias", torch.zeros(own.shape[0] or 0))
    return {
        f"{step.key}.{name}": value.detach().to(value.dtype if name == "num_batches_tracked" else torch.float32).clone()
        for name, value in made.items()
    }


def _differences(pairs: dict[Step, Step], output: Edge, own: Edge) -> list[str]:
    """What is computed otherwise, in the order of the network."""
    found = []
    for step in _order(output.source):
        other = pairs[step]
        if step.kind == "filter" and len(step.shape) == 4 == len(other.shape):
            if step.shape[2:] != other.shape[2:]:
                found.append(f"'{other.key}' has kernels of {other.shape[2:]}, '{step.key}' of {step.shape[2:]}")
            for name in ("stride", "pad", "dilation"):
                theirs, ours = step.options[name], other.options[name]
                if theirs != ours:
                    found.append(f"'{other.key}' has {name} {_brief(ours)}, '{step.key}' {_brief(theirs)}")
        for edge, inner in _paired(step, other, pairs):
            found += _passed(edge, inner)
    return list(dict.fromkeys([*found, *_passed(output, own, at_end=True)]))


def _brief(pair: tuple[int, int]) -> str:
    return str(pair[0]) if len(set(pair)) == 1 else str(pair)


def _paired(step: Step, other: Step, pairs: dict[Step, Step]) -> Iterator[tuple[Edge, Edge]]:
    """The inputs of two steps that stand for each other."""
    left = list(other.inputs)
    for edge in step.inputs:
        match = next((inner for inner in left if inner.source is pairs.get(edge.source)), None)
        if match is not None:
            left.remove(match)
            yield edge, match


def _passed(edge: Edge, own: Edge, at_end: bool = False) -> list[str]:
    wanted, found = _normal(edge.passed), _normal(own.passed)
    softmax = []
    if at_end and found[-1:] == ["Softmax"]:
        found = found[:-1]
        softmax = ["the net ends in a Softmax, the network does not"]
    if len(wanted) == len(found) and all(_equal(a, b) for a, b in zip(wanted, found)):
        return softmax
    where = f"'{own.source.key}'" if own.source.key else f"a {own.source.kind}"
    return [f"behind {where} the net has {_listed(found)}; the network {_listed(wanted)}", *softmax]


def _normal(passed: tuple[Pool | str, ...]) -> list[Pool | str]:
    """Functions with a ReLU before a maximum pooling, which it may change places with."""
    made = list(passed)
    for i in range(1, len(made)):
        before = made[i - 1]
        if made[i] == "ReLU" and isinstance(before, Pool) and before.kind == "max":
            made[i - 1 : i + 1] = [made[i], before]
    return made


def _equal(a: Pool | str, b: Pool | str) -> bool:
    if isinstance(a, Pool) and isinstance(b, Pool):
        return not a.differs(b)
    return a == b


def _listed(passed: list[Pool | str]) -> str:
    return ", then ".join(map(str, passed)) or "nothing"
