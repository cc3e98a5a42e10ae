"""An exported torch program as a graph of operators."""

from __future__ import annotations

import functools
import itertools
import math
import operator
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.export.graph_signature import InputKind, OutputKind

from caffe_bridge.convert.caffe_import.aten import CONVERTERS, layers
from caffe_bridge.convert.caffe_import.aten.registry import leaves
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Graph, Value
from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.errors import CaffeError, first_line

_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_CHECKS = {"_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range", "sym_constrain_range_for_size"}


def read_program(program: torch.export.ExportedProgram, name: str | None) -> Graph:
    """The graph of a program; what cannot be read is in its `problems`.

    Raises CaffeError for what is no program.
    """
    if not isinstance(program, torch.export.ExportedProgram):
        raise CaffeError(f"expected what torch.export.export returns, not {type(program).__name__}")
    # Operators taken apart give the results other names.
    return _Reader(_suited(program), name, [spec.arg.name for spec in _results(program)]).read()


def _results(program: torch.export.ExportedProgram) -> list[Any]:
    return [spec for spec in program.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]


def _suited(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without operators that write into their inputs, and with unknown ones taken apart."""
    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    overloads = [target for target in targets if isinstance(target, torch._ops.OpOverload)]
    unknown = [target for target in overloads if _converter(target) is None and _name(target) not in _CHECKS]
    table = {}
    if unknown:
        known = torch.export.default_decompositions()
        table = {target: known[target] for target in unknown if target in known}
    if not table and not any(target._schema.is_mutable for target in overloads):
        return program
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's about its own
            return program.run_decompositions(table)
    except Exception as error:  # torch raises whatever it stumbles over
        raise CaffeError(f"the program contradicts itself: {first_line(error)}") from error


def _converter(target: Any) -> Any:
    """The function that reads an operator, None for unknown ones."""
    return functools.partial(layers.restored, target) if _is_whole(target) else CONVERTERS.get(_name(target))


def _is_whole(target: Any) -> bool:
    """Whether an operator is a layer of Caffe in one piece."""
    return _name(target).startswith(layers.PREFIX)


def _is_foldable(target: Any, inputs: list[Value]) -> bool:
    """Whether an operator of torch's own makes a constant: of constants, or of numbers, and not by chance."""
    random = isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags
    return not _is_whole(target) and not random and all(value.array is not None for value in inputs)


def _name(target: Any) -> str:
    """aten.conv2d.default as conv2d; operators of other namespaces with theirs."""
    packet = getattr(target, "overloadpacket", None)
    if packet is None:
        return getattr(target, "__name__", str(target))
    return str(packet).removeprefix("aten.")


class _Reader:
    def __init__(self, program: torch.export.ExportedProgram, name: str | None, results: list[str]):
        self.program, self.results = program, results
        tensors = [*program.state_dict.values(), *program.constants.values()]
        weights = sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))
        self.builder = Builder(name or "net", weights)
        self.graph: Graph = self.builder.graph
        self.values: dict[torch.fx.Node, Any] = {}
        self.rows: dict[Any, int] = {}

    def read(self) -> Graph:
        """Read everything."""
        signature = self.program.graph_signature
        specs = {getattr(spec.arg, "name", ""): spec for spec in signature.input_specs}
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node, specs[node.name])
            elif node.op == "get_attr":
                self.graph.problems.add(f"'{node.name}' is a graph of its own; Caffe has no control flow")
                self.values[node] = None
            elif node.op == "call_function":
                self.values[node] = self._call(node)
            else:
                self._add_outputs(node)
        return self.graph

    def _placeholder(self, node: torch.fx.Node, spec: Any) -> Any:
        if spec.kind in _WEIGHTS:
            table = self.program.state_dict if spec.target in self.program.state_dict else self.program.constants
            tensor = table[spec.target].detach().to("cpu")
            if tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
                tensor = tensor.float()
            return self.builder.constant(tensor.numpy(), spec.target)
        if spec.kind != InputKind.USER_INPUT or not isinstance(node.meta.get("val"), torch.Tensor):
            value = getattr(spec.arg, "value", None)
            return value if isinstance(value, (int, float, bool, str)) else None
        shape = self._shape(node.meta["val"])
        with self.graph.problems.at(f"input '{node.name}'", [shape]):
            return self.builder.add_input(node.name, shape)
        return None

    def _add_outputs(self, node: torch.fx.Node) -> None:
        named = self._result_names()
        for spec, found in zip(self.program.graph_signature.output_specs, node.args[0]):  # type: ignore[arg-type]
            value = self.values.get(found) if isinstance(found, torch.fx.Node) else None  # type: ignore[arg-type]
            if spec.kind != OutputKind.USER_OUTPUT:
                if spec.kind == OutputKind.BUFFER_MUTATION:
                    self.graph.problems.add(f"changes its buffer '{spec.target}'; export the module in eval mode")
                continue
            name = next(named)
            if isinstance(value, Value) and name not in self.graph.output_names:
                self.graph.add_result(name, value)

    def _result_names(self) -> Iterator[str]:
        """The results' names in the program, or their keys where the module returns a dict."""
        tree = self.program.call_spec.out_spec
        found = tree.unflatten(range(tree.num_leaves)) if tree is not None else None
        if isinstance(found, dict) and list(found.values()) == list(range(len(self.results))):
            yield from (key if isinstance(key, str) else name for key, name in zip(found, self.results))
        else:
            yield from self.results

    # -- operators ---------------------------------------------------------------------------------------

    def _call(self, node: torch.fx.Node) -> Any:
        known = node.meta.get("val")
        if isinstance(known, (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool)):
            return self._open(known)
        if _name(node.target) in _CHECKS:
            return None
        arguments, keywords = self._look_up(node.args), self._look_up(node.kwargs)
        if node.target is operator.getitem:
            found = None if arguments[0] is None else arguments[0][arguments[1]]
            if found is None and arguments[0] is not None and node.users:
                self.graph.problems.add(f"'{node.name}' is a result that Caffe's layer does not have, as positions are")
                return self._stand_in(known)
            return found
        inputs = [value for value in leaves([arguments, list(keywords.values())]) if isinstance(value, Value)]
        described = f"'{node.name}' ({_name(node.target)}{_module(node)})"
        with self.graph.problems.at(described, [value.shape for value in inputs]):
            if _converter(node.target) is None and not _is_foldable(node.target, inputs):
                raise Unsupported(
                    f"operator {_name(node.target)} has no counterpart in Caffe", "cut the module before it"
                )
            if any(self.values.get(n) is None for n in node.all_input_nodes):
                return self._stand_in(known)
            self.builder.begin(_layer_name(node), described)
            made = self._made(node, arguments, keywords, inputs)
            if _is_whole(node.target):
                self._settle(made, known if isinstance(known, (list, tuple)) else [known])
            return self._checked(made, known)
        return self._stand_in(known)

    def _made(self, node: torch.fx.Node, arguments: Any, keywords: Any, inputs: list[Value]) -> Any:
        if _is_foldable(node.target, inputs):
            return self._folded(node, arguments, keywords)
        converter = _converter(node.target)
        try:
            return converter(self.builder, *arguments, **keywords)
        except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError, AttributeError) as error:
            raise Unsupported(f"is called in a way that is not supported: {error}") from error

    def _folded(self, node: torch.fx.Node, arguments: Any, keywords: Any) -> Any:
        """What an operator makes of constants, computed by torch."""
        known = node.meta.get("val")
        if not isinstance(known, torch.Tensor):
            raise Unsupported("makes several values of constants")
        self.builder.charge(math.prod(self._shape(known)), known.element_size())
        constants = {key: value for key, value in keywords.items() if key not in ("device", "layout", "pin_memory")}
        with torch.no_grad():
            found = node.target(*_tensors(arguments), **_tensors(constants))  # type: ignore[operator]
        return self.builder.constant(found.numpy(), node.name)

    def _stand_in(self, known: Any) -> Any:
        """A value of the shape torch found, so that what follows a problem is read too."""
        if isinstance(known, torch.Tensor):
            shape = tuple(self._open(size) or 0 for size in known.shape)
            return Value("", shape) if shape and min(shape) > 0 else None
        return [self._stand_in(part) for part in known] if isinstance(known, (list, tuple)) else None

    def _look_up(self, found: Any) -> Any:
        return torch.fx.node.map_arg(found, lambda node: self.values.get(node))

    def _settle(self, made: list[Value], known: Sequence[Any]) -> None:
        """Let the sizes on which data decide, which torch leaves open, be those of what was made."""
        for value, tensor in zip(made, known):
            if len(value.shape) == len(tensor.shape):
                for size, found in zip(tensor.shape, value.shape):
                    if isinstance(size, torch.SymInt) and size.node.hint is None and size.node.expr.is_symbol:
                        self.rows.setdefault(size.node.expr, found)

    def _checked(self, made: Any, known: Any) -> Any:
        """What was made, in the shapes torch knows."""
        if isinstance(known, (list, tuple)):
            made = made if isinstance(made, list) else [made]
            return [self._checked(part, wanted) for part, wanted in itertools.zip_longest(made, known)]
        if isinstance(made, list) and len(made) == 1:
            made = made[0]
        if not isinstance(made, Value) or not isinstance(known, torch.Tensor):
            return made
        shape = self._shape(known)
        if made.shape == shape:
            return made
        if made.made_by("layer") is None or math.prod(made.shape) != math.prod(shape):
            raise Unsupported(f"gives a value of shape {shape}, here {made.shape}")
        return self.builder.reshape(made, shape)

    def _shape(self, tensor: torch.Tensor) -> tuple[int, ...]:
        return tuple(int(self._number(size)) for size in tensor.shape)

    def _number(self, found: Any) -> Any:
        """A size; where it is left open the one the program was exported with, or that of what was made of data."""
        if not isinstance(found, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return found
        if found.node.hint is not None:
            return found.node.hint
        value = found.node.expr.subs(self.rows)
        if not (value.is_number or value.is_Boolean):
            raise Unsupported(f"has a size, {found}, on which data decide", "end the program before it")
        return bool(value) if isinstance(found, torch.SymBool) else int(value)

    def _open(self, found: Any) -> Any:
        """A number that is computed; None for one on which data decide that nothing here depends on."""
        try:
            return self._number(found)
        except Unsupported:
            return None


def _tensors(found: Any) -> Any:
    if isinstance(found, Value):
        return torch.from_numpy(found.array.copy()) if found.array is not None else found
    if isinstance(found, dict):
        return {key: _tensors(value) for key, value in found.items()}
    return type(found)(_tensors(part) for part in found) if isinstance(found, (list, tuple)) else found


def _stack(node: torch.fx.Node) -> tuple[str, str]:
    """The submodule that calls the operator, and its class."""
    stack = node.meta.get("nn_module_stack") or {}
    found = list(stack.values())
    path, kind = found[-1] if found else ("", "")
    path = str(path).removeprefix("L['self']").lstrip(".")
    return path, kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def _module(node: torch.fx.Node) -> str:
    path, _ = _stack(node)
    return f" in {path}" if path else ""


def _layer_name(node: torch.fx.Node) -> str:
    """The submodule for torch's own modules, else that and the operator."""
    path, kind = _stack(node)
    if path and kind.startswith("torch.nn.modules.") and not kind.endswith((".Sequential", ".ModuleList")):
        return path
    return f"{path}.{_name(node.target).rstrip('_')}" if path else node.name.rstrip("_")
