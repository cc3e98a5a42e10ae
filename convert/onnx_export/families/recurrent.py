"""RNN, LSTM and LSTMUnit, unrolled over the time steps."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_bridge.convert.onnx_export.builder import GraphBuilder
from caffe_bridge.convert.onnx_export.registry import ExportedLayer, exports


@exports("RNN", "LSTM")
def recurrent(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """Every step by itself; states that are not exposed begin as zeros at each run."""
    layer = node.layer
    x, cont, *rest = bottoms
    num = node.bottoms[0][1]
    weights = [graph.weight(layer, i) for i in range(len(layer.blobs))]
    rows = graph.reshape(x, [-1, layer.inputs])
    driven = graph.add("Gemm", rows, weights[0], weights[1], transB=1)
    driven = graph.reshape(driven, [layer.steps, num, layer.gates * layer.outputs])
    if layer.static:
        static = graph.add("Gemm", graph.add("Flatten", rest.pop(0), axis=1), weights[2], transB=1)
        driven = graph.add("Add", driven, static)
    first = graph.integers(0)
    if layer.exposed:
        states = [graph.add("Squeeze", state, first) for state in rest]
    else:
        zeros = graph.add("Expand", graph.constant(0), graph.shape([num, layer.outputs]))
        states = [zeros] * layer.states
    outputs = []
    for step in range(layer.steps):
        at = graph.constant(step, "int64")
        gates = graph.add("Gather", driven, at, axis=0)
        going = graph.add("Unsqueeze", graph.add("Gather", cont, at, axis=0), graph.integers(1))
        kept = graph.add("Mul", states[0], going)
        if node.type == "RNN":
            states = [graph.add("Tanh", graph.add("Gemm", kept, weights[-3], gates, transB=1))]
            output = graph.add("Tanh", graph.add("Gemm", states[0], weights[-2], weights[-1], transB=1))
        else:
            gates = graph.add("Gemm", kept, weights[-1], gates, transB=1)
            cell, output = _lstm_step(graph, states[1], gates, going, layer.outputs)
            states = [output, cell]
        outputs.append(graph.add("Unsqueeze", output, first))
    top = graph.add("Concat", *outputs, axis=0)
    return [top, *(graph.add("Unsqueeze", state, first) for state in states)][: len(node.tops)]


@exports("LSTMUnit")
def lstm_unit(graph: GraphBuilder, node: ExportedLayer, bottoms: Sequence[str]) -> list[str]:
    """One step; tops cell state and hidden state."""
    cell, gates, cont = bottoms
    going = graph.add("Unsqueeze", cont, graph.integers(2))
    (_, _, hidden) = node.bottoms[0]
    assert isinstance(hidden, int)
    return list(_lstm_step(graph, cell, gates, going, hidden))


def _lstm_step(graph: GraphBuilder, cell: str, gates: str, going: str, hidden: int) -> tuple[str, str]:
    """The cell state and the hidden state after a step; `going` is 0 where a sequence begins."""
    i, f, o, g = graph.add_many("Split", [gates, graph.integers(*[hidden] * 4)], 4, axis=-1)
    i, f, o = (graph.add("Sigmoid", gate) for gate in (i, f, o))
    kept = graph.add("Mul", graph.add("Mul", f, going), cell)
    new = graph.add("Add", kept, graph.add("Mul", i, graph.add("Tanh", g)))
    return new, graph.add("Mul", o, graph.add("Tanh", new))
