"""An ONNX graph as a graph of operators."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from caffe_bridge.convert.caffe_import import onnx_constants, restoring
from caffe_bridge.convert.caffe_import.builder import Builder
from caffe_bridge.convert.caffe_import.dialects import Dialect
from caffe_bridge.convert.caffe_import.graph import Graph, Value
from caffe_bridge.convert.caffe_import.onnx_files import tensor
from caffe_bridge.convert.caffe_import.onnx_node import OnnxNode
from caffe_bridge.convert.caffe_import.onnx_operators import CONVERTERS
from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.convert.onnx_export import origins
from caffe_bridge.errors import CaffeError
from caffe_bridge.layers.base import MAX_COUNT

MIN_OPSET = 7
_STANDARD = ("", "ai.onnx")

InputShapes = Mapping[str, Sequence[int]]


def read_graph(
    model: onnx.ModelProto,
    source: str,
    folder: str | None,
    input_shapes: InputShapes | None,
    dialect: Dialect,
    name: str | None,
) -> Graph:
    """The graph of a model; what cannot be read is in its `problems`.

    Args:
        model: the model, without functions of its own.
        source: its name for errors.
        folder: where tensors in other files may lie.
        input_shapes: shapes of inputs in place of the model's.
        dialect: what layers that the exporter wrote down may be.
        name: the net's name, the graph's own if None.

    Raises CaffeError for a model that is no graph: cyclic, values missing, inputs of unknown sizes.
    """
    return _Reader(model, source, folder, input_shapes or {}, dialect, name).read()


class _Reader:
    def __init__(
        self,
        model: onnx.ModelProto,
        source: str,
        folder: str | None,
        shapes: InputShapes,
        dialect: Dialect,
        name: str | None,
    ) -> None:
        self.model, self.source, self.folder, self.shapes, self.dialect = model, source, folder, dict(shapes), dialect
        self.opset = self._version()
        self.builder = Builder(name or model.graph.name or "net", self._weight_bytes())
        self.graph = self.builder.graph
        self.values: dict[str, Value | None] = {"": None}
        self.read_names = {name for node in model.graph.node for name in node.input}
        self.read_names.update(info.name for info in model.graph.output)
        self.known = {info.name: info for info in [*model.graph.value_info, *model.graph.output]}

    def _version(self) -> int:
        versions = [entry.version for entry in self.model.opset_import if entry.domain in _STANDARD]
        newest = onnx.defs.onnx_opset_version()
        version = max(versions, default=1)
        if not MIN_OPSET <= version <= newest:
            raise CaffeError(
                f"{self.source}: opset {version} is not one of {MIN_OPSET} to {newest}; export it with another one"
            )
        return version

    def _weight_bytes(self) -> int:
        total = 0
        for proto in self.model.graph.initializer:
            inside = len(proto.raw_data) + 4 * len(proto.float_data)
            total += inside or (4 * max(0, min(MAX_COUNT, math.prod(proto.dims))) if proto.external_data else 0)
        return total

    def read(self) -> Graph:
        """Read everything."""
        for proto in self.model.graph.initializer:
            with self.graph.problems.at(f"initializer '{proto.name}'", []):
                array = tensor(proto, self.folder)
                self.values[proto.name] = Value(proto.name, array.shape, array)
            self.values.setdefault(proto.name, None)
        if self.model.graph.sparse_initializer:
            self.graph.problems.add("sparse initializers cannot be read; store them densely")
        arrays = {
            name: value.array for name, value in self.values.items() if value is not None and value.array is not None
        }
        restored = restoring.Layers(self.model, arrays, self.dialect)
        self._add_inputs(restored)
        for proto in self._ordered():
            for layer in restored.at(proto):
                self._add_layer(layer)
            if not restored.covers(proto):
                self._add(proto)
        self._add_outputs()
        return self.graph

    # -- inputs and outputs ------------------------------------------------------------------------------

    def _add_inputs(self, restored: restoring.Layers) -> None:
        inputs = [info for info in self.model.graph.input if info.name not in self.values]
        unknown = set(self.shapes) - {info.name for info in inputs}
        if unknown:
            known = ", ".join(info.name for info in inputs) or "none"
            raise CaffeError(f"{self.source}: no input is named '{min(unknown)}'; the inputs are {known}")
        for info in inputs:
            given = self.shapes.get(info.name, restored.input_shapes.get(info.name))
            shape = self._input_shape(info) if given is None else tuple(int(size) for size in given)
            with self.graph.problems.at(f"input '{info.name}'", [shape]):
                self.values[info.name] = self.builder.add_input(info.name, shape)
            self.values.setdefault(info.name, None)

    def _input_shape(self, info: onnx.ValueInfoProto) -> tuple[int, ...]:
        kind = info.type.tensor_type
        if not info.type.HasField("tensor_type") or not kind.HasField("shape"):
            raise CaffeError(f"{self.source}: input '{info.name}' is no tensor of known axes; give its shape")
        shape = []
        for axis, dim in enumerate(kind.shape.dim):
            if dim.WhichOneof("value") == "dim_value" and dim.dim_value > 0:
                shape.append(dim.dim_value)
            elif axis == 0:
                shape.append(1)
            else:
                text = ", ".join(str(d.dim_value or d.dim_param or "?") for d in kind.shape.dim)
                raise CaffeError(
                    f"{self.source}: input '{info.name}' has shape ({text}); a Caffe net is converted for one size, "
                    f"so say which, as in --input-shape {info.name}=1,3,224,224"
                )
        return tuple(shape)

    def _add_outputs(self) -> None:
        for info in self.model.graph.output:
            value = self.values.get(info.name)
            if value is None:
                if info.name not in self.values:
                    raise CaffeError(f"{self.source}: nothing makes the output '{info.name}'")
                continue
            self.graph.add_result(info.name, value)
        if not self.model.graph.output:
            raise CaffeError(f"{self.source}: the graph has no output")

    # -- nodes -------------------------------------------------------------------------------------------

    def _ordered(self) -> list[onnx.NodeProto]:
        """The nodes, each after those it reads from. Raises CaffeError where there is no such order."""
        nodes = list(self.model.graph.node)
        makers: dict[str, int] = {}
        for i, node in enumerate(nodes):
            for name in filter(None, node.output):
                if name in makers or name in self.values:
                    raise CaffeError(f"{self.source}: '{name}' is made twice")
                makers[name] = i
        readers: dict[int, list[int]] = {}
        waiting = []
        for i, node in enumerate(nodes):
            missing = [name for name in node.input if name not in self.values and name not in makers]
            if missing:
                raise CaffeError(f"{self.source}: {describe(node)} reads '{missing[0]}', which nothing makes")
            before = {makers[name] for name in node.input if name in makers}
            waiting.append(len(before))
            for maker in before:
                readers.setdefault(maker, []).append(i)
        ready = deque(i for i, count in enumerate(waiting) if not count)
        ordered = []
        while ready:
            i = ready.popleft()
            ordered.append(nodes[i])
            for reader in readers.get(i, ()):
                waiting[reader] -= 1
                if not waiting[reader]:
                    ready.append(reader)
        if len(ordered) < len(nodes):
            stuck = next(node for node, count in zip(nodes, waiting) if count)
            raise CaffeError(f"{self.source}: {describe(stuck)} depends on its own output; the graph has a cycle")
        # Exporters write nodes in the order of the program, which makes the better prototxt.
        return nodes if _is_sorted(nodes, makers) else ordered

    def _add(self, proto: onnx.NodeProto) -> None:
        if proto.op_type == "If" and proto.domain in _STANDARD:
            with self.graph.problems.at(describe(proto), []):
                self._add_branch(proto)
            return
        for name in filter(None, proto.output):
            self.values[name] = None
        inside = next((name for name in proto.input if name not in self.values), None)
        inputs = [self.values.get(name) for name in proto.input]
        shapes = [value.shape for value in inputs if value is not None]
        with self.graph.problems.at(describe(proto), shapes):
            if inside is not None:
                raise Unsupported(f"reads '{inside}' from within the nodes of a layer that the model's notes restore")
            self._check_known(proto)
            self._check_inputs(proto)
            if any(value is None and name for value, name in zip(inputs, proto.input)):
                return
            for value in inputs:
                if value is not None and 0 in value.shape and value.array is None:
                    raise Unsupported("has an empty input")
            node = OnnxNode(proto, self.opset)
            self.builder.begin(layer_name(proto, inputs), describe(proto))
            found = self._outputs(node, inputs)
            for name, value in zip(proto.output, found):
                if name:
                    self.values[name] = value
            unmade = [name for name in proto.output[len(found) :] if name in self.read_names]
            if unmade:
                raise Unsupported(f"has an output '{unmade[0]}' that Caffe's layer does not have")
        for name in filter(None, proto.output):
            if self.values[name] is None:
                self.values[name] = self._stand_in(name)

    def _add_branch(self, proto: onnx.NodeProto) -> None:
        """Add the branch that a constant condition chooses, such as one on a size."""
        self.values.update((name, None) for name in proto.output if name)
        condition = self.values.get(proto.input[0]) if proto.input else None
        if condition is None or condition.array is None or condition.array.size != 1:
            raise Unsupported("has a condition that is computed at run time; Caffe has no control flow")
        chosen = "then_branch" if condition.array.item() else "else_branch"
        branch = next((attribute.g for attribute in proto.attribute if attribute.name == chosen), onnx.GraphProto())
        if len(branch.output) != len(proto.output):
            raise Unsupported(f"has no {chosen} with as many results")
        for tensor_proto in branch.initializer:
            array = tensor(tensor_proto, self.folder)
            self.values[tensor_proto.name] = Value(tensor_proto.name, array.shape, array)
        self.read_names.update(name for node in branch.node for name in node.input)
        for node in branch.node:
            self._add(node)
        for name, made in zip(proto.output, branch.output):
            self.values[name] = self.values.get(made.name)

    @staticmethod
    def _check_known(proto: onnx.NodeProto) -> None:
        if proto.domain not in _STANDARD:
            raise Unsupported(f"is an operator of '{proto.domain}'", "export with standard operators only")
        if proto.op_type not in CONVERTERS and not onnx_constants.can_fold(proto.op_type):
            raise Unsupported(f"operator {proto.op_type} has no counterpart in Caffe", "cut the net before it")

    def _check_inputs(self, proto: onnx.NodeProto) -> None:
        try:
            formal = onnx.defs.get_schema(proto.op_type, self.opset, "").inputs
        except onnx.defs.SchemaError:
            return  # an operator of before or after this opset
        for i, parameter in enumerate(formal):
            needed = parameter.option == onnx.defs.OpSchema.FormalParameterOption.Single
            if needed and (i >= len(proto.input) or not proto.input[i]):
                raise Unsupported(f"lacks its input '{parameter.name}'")

    def _outputs(self, node: OnnxNode, inputs: Sequence[Value | None]) -> list[Value]:
        given = [value for value in inputs if value is not None]
        if onnx_constants.can_fold(node.operator) and all(value.array is not None for value in given):
            arrays = [None if value is None else value.array for value in inputs]
            found = onnx_constants.fold(node, arrays, self.builder.charge)
            name = given[0].name if given else ""
            return [self.builder.constant(array, name) for array in found]
        if node.operator not in CONVERTERS:
            raise Unsupported("is computed at run time, where Caffe has no such operation", "export with fixed shapes")
        if inputs and inputs[0] is None:
            raise Unsupported("lacks its first input")
        try:
            made = CONVERTERS[node.operator](self.builder, node, inputs)
        except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError, AttributeError) as error:
            raise Unsupported(f"does not fit its inputs: {error}") from error
        return made if isinstance(made, list) else [made]

    def _stand_in(self, name: str) -> Value | None:
        """A value of the shape the model declares, so that what follows a problem is read too."""
        info = self.known.get(name)
        if info is None or not info.type.tensor_type.HasField("shape"):
            return None
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        return Value(name, shape) if shape and min(shape) > 0 and math.prod(shape) <= MAX_COUNT else None

    def _add_layer(self, layer: origins.Origin) -> None:
        """Add a layer that the exporter wrote down."""
        for name in layer.tops:
            self.values.setdefault(name, None)
        inputs = [self.values.get(name) for name in layer.bottoms]
        if any(value is None for value in inputs):
            return
        bottoms = [value for value in inputs if value is not None]
        with self.graph.problems.at(f"layer '{layer.param.name}'", [value.shape for value in bottoms]):
            self.builder.begin(layer.param.name, f"layer '{layer.param.name}' ({layer.param.type})")
            blobs = [self._blob(name, shape) for name, shape in layer.blobs]
            made = self.builder.add_layer(layer.param, len(layer.tops), bottoms, blobs)
            for name, value in zip(layer.tops, made):
                self.values[name] = value

    def _blob(self, name: str, shape: Sequence[int]) -> Any:
        value = self.values.get(name)
        if value is None or value.array is None or value.array.size != math.prod(shape):
            raise Unsupported(f"lacks its weights '{name}'")
        return value.array.reshape(tuple(shape))


def _is_sorted(nodes: Sequence[onnx.NodeProto], makers: Mapping[str, int]) -> bool:
    return all(makers.get(name, -1) < i for i, node in enumerate(nodes) for name in node.input)


def describe(proto: onnx.NodeProto) -> str:
    """A node for errors."""
    name = proto.name or next(filter(None, proto.output), "")
    return f"node '{name}' ({proto.op_type or 'no operator'})"


def layer_name(proto: onnx.NodeProto, inputs: Sequence[Value | None]) -> str:
    """What to call a node's layer: as the module that owns its weights, else as the node without its operator.

    torch's exporter calls nodes /layer1/layer1.0/conv1/Conv; this becomes layer1.0.conv1.
    """
    for value in inputs[1:]:
        if value is not None and value.array is not None and value.name.endswith(".weight"):
            return value.name.removesuffix(".weight")
    name = proto.name or next(filter(None, proto.output), "") or proto.op_type
    parts = [part for part in re.split(r"/+", name) if part]
    if len(parts) > 1 and re.fullmatch(rf"{re.escape(proto.op_type)}(_\d+)?", parts[-1]):
        parts.pop()
    kept: list[str] = []
    for part in parts:
        while kept and part.startswith(kept[-1] + "."):
            kept.pop()
        kept.append(part)
    return ("/" if len(kept) == len(parts) else ".").join(kept) or proto.op_type
