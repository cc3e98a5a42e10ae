"""Reading net and solver definitions: a prototxt becomes what Caffe would build from it.

read_net        text -> upgraded -> filtered for a phase, level and stages
insert_splits   the copies Caffe adds where a blob has several readers
read_solver     a solver's parameters, upgraded
solver_nets     the train and test nets a solver names
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caffe_bridge import dialects, schema, text_format
from caffe_bridge.errors import PrototxtError, SolverError
from caffe_bridge.upgrade import upgrade_net, upgrade_solver

PHASES = ("TRAIN", "TEST")

MAX_NAME = 1000
"""Longest layer or blob name a split's names may be made of: each reader of a blob repeats them."""

_SUFFIXES = (".prototxt", ".pt", ".txt")


@dataclass
class NetDefinition:
    """A net as it will be built.

    param: the NetParameter; its `state` is the one it was filtered for.
    path: the file it came from, "" if none.
    lines: for each of `param.layer` its line in that file, None for layers that are not in it.
    """

    param: Any
    path: str = ""
    lines: list[int | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lines = self.lines or [None] * len(self.param.layer)

    def where(self, index: int) -> str:
        """Where layer `index` is defined: "file:line", or as much of it as is known."""
        line = self.lines[index]
        if line is None:
            return self.path
        return f"{self.path}:{line}" if self.path else f"line {line}"


def read_net(prototxt: Any, phase: str, stages: Sequence[str] = (), level: int = 0) -> NetDefinition:
    """The net that Caffe would build for a phase ("TRAIN" or "TEST"), a level and stages.

    `prototxt` is a path, the text itself, or a NetParameter of this or of another caffe_pb2. As in Caffe, phase and
    level replace those of the file's `state`, stages are added to its own.

    Raises PrototxtError for a file that cannot be read, anything wrong in the text, and for layers with
    both include and exclude rules.
    """
    if phase not in PHASES:
        raise PrototxtError(f"phase must be TRAIN or TEST, got {phase!r}")
    definition = _load_net(prototxt)
    state = definition.param.state
    state.phase = schema.Phase.Value(phase)
    state.stage.extend(stages)
    state.level = level
    return _filtered(definition)


def insert_splits(definition: NetDefinition) -> NetDefinition:
    """The net with a Split layer behind every top that has several readers, a loss weight counting as one.

    Names are Caffe's: layer BLOB_LAYER_INDEX_split with tops BLOB_LAYER_INDEX_split_K. A loss weight moves to the
    first of these tops; as in Caffe the layer then loses all of its loss weights.

    Raises PrototxtError for a bottom that no earlier layer makes, and for names beyond MAX_NAME on a split blob.
    """
    layers = definition.param.layer
    made: dict[str, tuple[int, int]] = {}  # blob -> (layer, top) that made it last
    sources: list[list[tuple[int, int]]] = []  # for each layer the makers of its bottoms
    readers: Counter[tuple[int, int]] = Counter()
    loss_weights: dict[tuple[int, int], float] = {}
    for i, layer in enumerate(layers):
        for bottom in layer.bottom:
            if bottom not in made:
                hint = text_format.near(bottom, made)
                phase = schema.Phase.Name(definition.param.state.phase)
                problem = (
                    f"bottom '{bottom}' of layer '{layer.name}' is made by no earlier layer in phase {phase}{hint}"
                )
                raise PrototxtError(problem, definition.path or None, definition.lines[i])
        sources.append([made[bottom] for bottom in layer.bottom])
        readers.update(sources[i])
        made.update((top, (i, j)) for j, top in enumerate(layer.top))
        for top, weight in zip(layer.top, layer.loss_weight, strict=False):
            loss_weights[made[top]] = weight
            readers[made[top]] += bool(weight)

    param = schema.NetParameter()
    param.CopyFrom(definition.param)
    del param.layer[:]
    lines: list[int | None] = []
    taken: Counter[tuple[int, int]] = Counter()
    for i, layer in enumerate(layers):
        copy = param.layer.add()
        copy.CopyFrom(layer)
        lines.append(definition.lines[i])
        for j, source in enumerate(sources[i]):
            if readers[source] > 1:
                prefix = f"{copy.bottom[j]}_{layers[source[0]].name}_{source[1]}_split"
                copy.bottom[j] = f"{prefix}_{taken[source]}"
                taken[source] += 1
        for j, top in enumerate(layer.top):
            count = readers[i, j]
            if count > 1:
                if len(top) + len(layer.name) > MAX_NAME:
                    problem = f"the names of a layer and of its top are longer than {MAX_NAME} characters together"
                    raise PrototxtError(problem, definition.path or None, definition.lines[i])
                name = f"{top}_{layer.name}_{j}_split"
                tops = [f"{name}_{k}" for k in range(count)]
                split = param.layer.add(name=name, type="Split", bottom=[top], top=tops)
                lines.append(definition.lines[i])
                if weight := loss_weights.get((i, j)):
                    split.loss_weight.extend([weight] + [0] * (count - 1))
                    copy.ClearField("loss_weight")
                    taken[i, j] += 1
    return NetDefinition(param, definition.path, lines)


def read_solver(solver: Any) -> tuple[Any, str]:
    """The SolverParameter of a path, a text or a message, upgraded, and its path ("" if none).

    For a file, an absent snapshot_prefix becomes the file's path without suffix; one that is a directory gets the
    file's stem appended.

    Raises PrototxtError for a file that cannot be read and for anything wrong in the text.
    """
    param, path, _ = _load(solver, "SolverParameter")
    upgrade_solver(param, path or None)
    if path and not param.HasField("snapshot_prefix"):
        param.snapshot_prefix = str(Path(path).with_suffix(""))
    elif path and os.path.isdir(param.snapshot_prefix):
        param.snapshot_prefix = os.path.join(param.snapshot_prefix, Path(path).stem)
    return param, path


def solver_nets(solver: Any, path: str = "") -> tuple[NetDefinition, list[NetDefinition]]:
    """The train net and the test nets of a SolverParameter, in Caffe's order.

    Test nets are those of test_net_param, of test_net, then `net` or `net_param` once for every test_iter left.
    States: the phase, overridden by the net's own state, overridden by train_state or test_state.
    Net paths are tried from the working directory, then from the solver file's directory and each one above it.

    Raises SolverError if there is not exactly one train net, or test_iter, test_state or test_interval do not fit the
    test nets; PrototxtError if a net cannot be read.
    """
    where = f"{path}: " if path else ""
    fields = [name for name in ("net", "net_param", "train_net", "train_net_param") if solver.HasField(name)]
    if len(fields) != 1:
        got = " and ".join(fields) or "none"
        raise SolverError(f"{where}give one train net as net, net_param, train_net or train_net_param; got {got}")
    source = getattr(solver, fields[0])
    train = _solver_net(source, path, "TRAIN", solver.train_state)

    tests: list[Any] = [*solver.test_net_param, *solver.test_net]
    generic = fields[0] in ("net", "net_param")
    left = len(solver.test_iter) - len(tests)
    if left < 0 or (left and not generic):
        problem = f"{len(tests)} test nets but {len(solver.test_iter)} test_iter; give one test_iter per test net"
        raise SolverError(f"{where}{problem}")
    tests += [source] * left
    states = list(solver.test_state) or [schema.NetState() for _ in tests]
    if len(states) != len(tests):
        raise SolverError(f"{where}{len(states)} test_state for {len(tests)} test nets; give none, or one per test net")
    if tests and solver.test_interval <= 0:
        raise SolverError(f"{where}there are test nets, so test_interval must be above 0")
    # A test_state says TEST only if the file does: an unset phase does not override.
    return train, [_solver_net(net, path, "TEST", state) for net, state in zip(tests, states, strict=True)]


def _solver_net(source: Any, solver_path: str, phase: str, state: Any) -> NetDefinition:
    if isinstance(source, str):
        source = Path(_find_net(source, solver_path))
    definition = _load_net(source)
    merged = schema.NetState(phase=schema.Phase.Value(phase))
    merged.MergeFrom(definition.param.state)
    merged.MergeFrom(state)
    definition.param.state.CopyFrom(merged)
    return _filtered(definition)


def _find_net(name: str, solver_path: str) -> str:
    """Solvers name nets from Caffe's root directory, which need not be where we are."""
    parents = Path(solver_path).absolute().parents if solver_path else ()
    for candidate in [name, *(os.path.join(parent, name) for parent in parents)]:
        if os.path.isfile(candidate):
            return candidate
    problem = f"net '{name}' is neither below the working directory nor below a directory above this file"
    raise PrototxtError(problem, solver_path or None)


def _load_net(source: Any) -> NetDefinition:
    param, path, lines = _load(source, "NetParameter")
    upgrade_net(param, path or None, lines)
    return NetDefinition(param, path, lines.get("layer", []))


def _load(source: Any, kind: str) -> tuple[Any, str, text_format.Lines]:
    """A message of a kind from a path, a text or another message; with its path ("" if none) and lines."""
    param = getattr(schema, kind)()
    if hasattr(source, "DESCRIPTOR"):
        _copy(source, param, kind)
        return param, "", {}
    path = ""
    if isinstance(source, os.PathLike) or _is_path(source):
        path = os.fspath(source)
        source = _read(path)
    elif not isinstance(source, (str, bytes)):
        raise TypeError(f"expected a path, text or {kind}, got {type(source).__name__}")
    return param, path, text_format.parse(source, param, path or None)


def _copy(message: Any, param: Any, kind: str) -> None:
    """Take over a message, which may be of another pool, with another fork's field numbers."""
    if message.DESCRIPTOR.full_name != f"caffe.{kind}":
        raise PrototxtError(f"expected a caffe.{kind}, got a {message.DESCRIPTOR.full_name}")
    if isinstance(message, type(param)):
        param.CopyFrom(message)
    elif kind == "NetParameter":
        param.CopyFrom(dialects.parse_net(message.SerializeToString()))
    else:
        param.ParseFromString(message.SerializeToString())


def _is_path(text: str) -> bool:
    """Whether a string is a file's name rather than the content: that has line breaks, brackets or colons."""
    if not isinstance(text, str) or not text or any(character in text for character in "\n{\0"):
        return False
    return text.endswith(_SUFFIXES) or ":" not in text or os.path.isfile(text)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise PrototxtError("no such file", path) from None
    except OSError as error:
        raise PrototxtError(f"cannot be read: {error.strerror}", path) from None


def _filtered(definition: NetDefinition) -> NetDefinition:
    """Only the layers whose rules the net's state meets."""
    param = schema.NetParameter()
    param.CopyFrom(definition.param)
    del param.layer[:]
    lines = []
    for layer, line in zip(definition.param.layer, definition.lines, strict=True):
        if layer.include and layer.exclude:
            problem = f"layer '{layer.name}' has include and exclude rules; use one kind"
            raise PrototxtError(problem, definition.path or None, line)
        rules = layer.include or layer.exclude
        if any(_meets(param.state, rule) for rule in rules) == bool(layer.include):
            param.layer.append(layer)
            lines.append(line)
    return NetDefinition(param, definition.path, lines)


def _meets(state: Any, rule: Any) -> bool:
    if rule.HasField("phase") and rule.phase != state.phase:
        return False
    if rule.HasField("min_level") and state.level < rule.min_level:
        return False
    if rule.HasField("max_level") and state.level > rule.max_level:
        return False
    stages = set(state.stage)
    return stages.issuperset(rule.stage) and stages.isdisjoint(rule.not_stage)
