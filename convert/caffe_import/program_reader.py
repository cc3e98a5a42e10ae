"""An exported torch program as a graph of operators."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch.export.graph_signature import InputKind, OutputKind

from caffe_bridge.convert.caffe_import.aten import CONVERTERS
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.graph import Graph, Value
from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.errors import CaffeError

_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def read_program(program: torch.export.ExportedProgram, name: str | None) -> Graph:
    """The graph of a program; what cannot be read is in its `problems`.

    Raises CaffeError for what is no program.
    """
    if not isinstance(program, torch.export.ExportedProgram):
        raise CaffeError(f"expected what torch.export.export returns, not {type(program).__name__}")
    return _Reader(_suited(program), name).read()


def _suited(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without operators that write into their inputs, and with unknown ones taken apart."""
    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    overloads = [target for target in targets if isinstance(target, torch._ops.OpOverload)]
    table = {}
    if any(_name(target) not in CONVERTERS for target in overloads):
        known = torch.export.default_decompositions()
        table = {target: known[target] for target in overloads if _name(target) not in CONVERTERS and target in known}
    if not table and not any(target._schema.is_mutable for target in overloads):
        return program
    return program.run_decompositions(table)


def _name(target: Any) -> str:
    """aten.conv2d.default as conv2d; operators of other namespaces with theirs."""
    packet = getattr(target, "overloadpacket", None)
    if packet is None:
        return getattr(target, "__name__", str(target))
    return str(packet).removeprefix("aten.")


class _Reader:
    def __init__(self, program: torch.export.ExportedProgram, name: str | None):
        self.program = program
        tensors = [*program.state_dict.values(), *program.constants.values()]
        weights = sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))
        self.builder = Builder(name or "net", weights)
        self.graph: Graph = self.builder.graph
        self.values: dict[torch.fx.Node, Any] = {}

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
        shape = _shape(node.meta["val"])
        with self.graph.problems.at(f"input '{node.name}'", [shape]):
            return self.builder.add_input(node.name, shape)
        return None

    def _add_outputs(self, node: torch.fx.Node) -> None:
        for spec, found in zip(self.program.graph_signature.output_specs, node.args[0]):  # type: ignore[arg-type]
            value = self.values.get(found) if isinstance(found, torch.fx.Node) else None  # type: ignore[arg-type]
            if spec.kind != OutputKind.USER_OUTPUT:
                if spec.kind == OutputKind.BUFFER_MUTATION:
                    self.graph.problems.add(f"changes its buffer '{spec.target}'; export the module in eval mode")
            elif isinstance(value, Value) and spec.arg.name not in self.graph.output_names:
                self.graph.add_result(spec.arg.name, value)

    # -- operators ---------------------------------------------------------------------------------------

    def _call(self, node: torch.fx.Node) -> Any:
        known = node.meta.get("val")
        if isinstance(known, (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool)):
            return _number(known)
        arguments, keywords = self._look_up(node.args), self._look_up(node.kwargs)
        if node.target is operator.getitem:
            found = None if arguments[0] is None else arguments[0][arguments[1]]
            if found is None and arguments[0] is not None and node.users:
                self.graph.problems.add(f"'{node.name}' is a result that Caffe's layer does not have, as positions are")
                return self._stand_in(known)
            return found
        inputs = [value for value in _leaves([arguments, list(keywords.values())]) if isinstance(value, Value)]
        described = f"'{node.name}' ({_name(node.target)}{_module(node)})"
        with self.graph.problems.at(described, [value.shape for value in inputs]):
            if _name(node.target) not in CONVERTERS and not (inputs and all(v.array is not None for v in inputs)):
                raise Unsupported(
                    f"operator {_name(node.target)} has no counterpart in Caffe", "cut the module before it"
                )
            if any(self.values.get(n) is None for n in node.all_input_nodes):
                return self._stand_in(known)
            self.builder.begin(_layer_name(node), described)
            made = self._made(node, arguments, keywords, inputs)
            self._check(made, known)
            return made
        return self._stand_in(known)

    def _made(self, node: torch.fx.Node, arguments: Any, keywords: Any, inputs: list[Value]) -> Any:
        if all(value.array is not None for value in inputs):
            return self._folded(node, arguments, keywords)
        try:
            return CONVERTERS[_name(node.target)](self.builder, *arguments, **keywords)
        except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError, AttributeError) as error:
            raise Unsupported(f"is called in a way that is not supported: {error}") from error

    def _folded(self, node: torch.fx.Node, arguments: Any, keywords: Any) -> Any:
        """What an operator makes of constants, computed by torch."""
        known = node.meta.get("val")
        if not isinstance(known, torch.Tensor):
            raise Unsupported("makes several values of constants")
        self.builder.charge(math.prod(_shape(known)), known.element_size())
        constants = {key: value for key, value in keywords.items() if key not in ("device", "layout", "pin_memory")}
        with torch.no_grad():
            found = node.target(*_tensors(arguments), **_tensors(constants))  # type: ignore[operator]
        return self.builder.constant(found.numpy(), node.name)

    def _stand_in(self, known: Any) -> Any:
        """A value of the shape torch found, so that what follows a problem is read too."""
        if isinstance(known, torch.Tensor):
            shape = _shape(known)
            return Value("", shape) if shape and min(shape) > 0 else None
        return [self._stand_in(part) for part in known] if isinstance(known, (list, tuple)) else None

    def _look_up(self, found: Any) -> Any:
        return torch.fx.node.map_arg(found, lambda node: self.values.get(node))

    def _check(self, made: Any, known: Any) -> None:
        if isinstance(made, Value) and isinstance(known, torch.Tensor) and made.shape != _shape(known):
            raise Unsupported(f"gives a value of shape {_shape(known)}, here {made.shape}")


def _shape(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(int(_number(size)) for size in tensor.shape)


def _number(found: Any) -> Any:
    """A size, where it is left open the one the program was exported with."""
    if isinstance(found, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return found.node.hint if found.node.hint is not None else int(found)
    return found


def _leaves(found: Any) -> list[Any]:
    return [leaf for part in found for leaf in _leaves(part)] if isinstance(found, (list, tuple)) else [found]


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
