"""Which sizes of a net's blobs vary with the batch and the image, found by asking the layers."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from caffe_bridge.convert.onnx_export.registry import shape_rule, type_of
from caffe_bridge.errors import LayerError
from caffe_bridge.graph import Graph
from caffe_bridge.layers.base import Shape, check_shape

Dim = int | str
Dims = tuple[Dim, ...]

VARIABLE = ("batch", "rois", "height", "width")

_ROI_LAYERS = {"PSROIPooling", "ROIPooling", "ROIWarping"}
_STEPS = {"batch": (1, 2, 5), "rois": (1, 2, 5), "height": (1, 2, 3, 64, 96, 256), "width": (1, 2, 3, 64, 96, 256)}
# The rounding of strides lets a fixed net take a few more cells; that does not make its image size free.
_LEAST = {"batch": 1, "rois": 1, "height": 64, "width": 64}
_TOGETHER = {"batch": 3, "rois": 4, "height": 64, "width": 192}
# Numbers of rows that are tried where data decide on it; 1 is the other one.
_ROWS = (2, 5)


class FixedSizeError(LayerError):
    """A layer is exported for fixed sizes only, and one it depends on varies."""


def fixed(dims: Sequence[Dim], what: str = "the bottom's sizes") -> tuple[int, ...]:
    """The dims as numbers. Raises FixedSizeError where one varies."""
    numbers = tuple(dim for dim in dims if isinstance(dim, int))
    if len(numbers) < len(dims):
        raise FixedSizeError(f"can be exported only if {what} are fixed, not {tuple(dims)}")
    return numbers


@dataclass(frozen=True)
class Sizes:
    """For each layer of a graph the dims of its tops, and the symbols that stand for sizes that vary."""

    tops: list[list[Dims]]
    symbols: list[str]


def find_sizes(graph: Graph, vary: Collection[str]) -> Sizes:
    """The dims of every top when the inputs' sizes of the kinds in `vary` (of VARIABLE) may be others.

    A size varies if the layers accept other inputs and give another one for them, or if it depends on data. Two sizes
    have one symbol if they are equal for all inputs tried: those of the inputs are called as in VARIABLE, others
    BLOB_AXIS. Kinds that some layer does not accept are fixed.

    Raises LayerError where a layer refuses what another one may make of some data.
    """
    inputs = {name: graph.shapes[name] for name in graph.inputs}
    places = _places(graph, inputs)
    traces = [_trace(graph, inputs)]
    accepted = {}
    for kind in VARIABLE:
        if kind not in vary or not places[kind]:
            continue
        found = {step: _try(graph, _moved(inputs, places[kind], step)) for step in _STEPS[kind]}
        if any(found[step] for step in _STEPS[kind] if step >= _LEAST[kind]):
            traces += itertools.chain.from_iterable(found.values())
            accepted[kind] = _TOGETHER[kind]
    together = inputs
    for kind, step in accepted.items():
        together = _moved(together, places[kind], step)
    traces += _try(graph, together)
    for index, node in enumerate(graph.nodes):
        if shape_rule(type_of(node)) is not None:
            traces += [_trace(graph, inputs, {index: rows}) for rows in _ROWS]

    names: dict[tuple[int, ...], str] = {}
    for kind in accepted:
        name, axis = places[kind][0]
        names[_input_values(graph, traces, name, axis)] = kind
    tops: list[list[Dims]] = []
    for index, node in enumerate(graph.nodes):
        row: list[Dims] = []
        for top, blob in enumerate(node.tops):
            shapes = [trace[index][top] for trace in traces]
            dims: list[Dim] = []
            for axis, values in enumerate(zip(*shapes)):
                varies = len(set(values)) > 1
                dims.append(names.setdefault(values, f"{blob}_{axis}") if varies else values[0])
            row.append(tuple(dims))
        tops.append(row)
    return Sizes(tops, list(names.values()))


def _places(graph: Graph, inputs: Mapping[str, Shape]) -> dict[str, list[tuple[str, int]]]:
    """(input, axis) of each kind of size: of all inputs that agree with the first that has one."""
    places = {"rois": _roi_places(graph, inputs)}
    for kind, axis, fewest in (("batch", 0, 1), ("height", 2, 4), ("width", 3, 4)):
        having = [name for name, shape in inputs.items() if len(shape) >= fewest and (name, axis) not in places["rois"]]
        places[kind] = [(name, axis) for name in having if inputs[name][axis] == inputs[having[0]][axis]]
    return places


def _roi_places(graph: Graph, inputs: Mapping[str, Shape]) -> list[tuple[str, int]]:
    """The inputs that list RoIs, and the fewest others that must have as many rows."""
    lists = dict.fromkeys(node.bottoms[1] for node in graph.nodes if node.type in _ROI_LAYERS)
    rois = [name for name in lists if name in inputs]
    if not rois:
        return []
    others = [name for name in inputs if name not in rois and inputs[name][:1] == inputs[rois[0]][:1]]
    for count in range(len(others) + 1):
        for more in itertools.combinations(others, count):
            places = [(name, 0) for name in (*rois, *more)]
            if _try(graph, _moved(inputs, places, 1)):
                return places
    return []


def _moved(inputs: Mapping[str, Shape], places: list[tuple[str, int]], step: int) -> dict[str, Shape]:
    shapes = {name: list(shape) for name, shape in inputs.items()}
    for name, axis in places:
        shapes[name][axis] += step
    return {name: tuple(shape) for name, shape in shapes.items()}


def _try(graph: Graph, inputs: Mapping[str, Shape]) -> list[list[list[Shape]]]:
    try:
        return [_trace(graph, inputs)]
    except LayerError:
        return []


def _trace(graph: Graph, inputs: Mapping[str, Shape], rows: Mapping[int, int] | None = None) -> list[list[Shape]]:
    """The shapes of each layer's tops for inputs of these shapes. Raises LayerError where a layer refuses.

    `rows` says how many rows data give to the tops of a layer, by its number; 1 if it does not.
    """
    shapes = dict(inputs)
    traced = []
    for index, node in enumerate(graph.nodes):
        bottoms = [shapes[name] for name in node.bottoms]
        if node.type == "Input":
            row = [shapes[name] for name in node.tops]
        else:
            rule = shape_rule(type_of(node))
            found = node.layer.top_shapes(bottoms)
            if rule is not None:
                found = rule(node.layer, bottoms, (rows or {}).get(index, 1))
            row = [tuple(map(int, s)) for s in found]
        for name, shape in zip(node.tops, row):
            check_shape(f"top '{name}'", shape)
            shapes[name] = shape
        traced.append(row)
    return traced


def _input_values(graph: Graph, traces: list[list[list[Shape]]], name: str, axis: int) -> tuple[int, ...]:
    index = next(i for i, node in enumerate(graph.nodes) if node.type == "Input" and name in node.tops)
    top = graph.nodes[index].tops.index(name)
    return tuple(trace[index][top][axis] for trace in traces)
