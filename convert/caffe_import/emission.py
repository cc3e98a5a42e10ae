"""From a graph of operators to a Caffe net."""

from __future__ import annotations

from caffe_bridge.convert.caffe_import.dialects import Dialect
from caffe_bridge.convert.caffe_import.graph import Graph
from caffe_bridge.convert.caffe_import.problems import Unsupported
from caffe_bridge.convert.caffe_import.registry import emitters
from caffe_bridge.convert.caffe_import.simplification import simplify
from caffe_bridge.convert.caffe_import.writer import NetWriter
from caffe_bridge.convert.model import Model
from caffe_bridge.definition import read_net
from caffe_bridge.graph import build_graph


def write_net(graph: Graph, dialect: Dialect, source: str) -> Model:
    """The graph as a net in a dialect of Caffe.

    Raises ConversionError naming every node that the dialect cannot express, or that could not be read.
    """
    known = emitters()
    writer = NetWriter(graph, dialect)
    if not graph.problems.found:
        simplify(graph)
    for value in graph.inputs:
        writer.add_input(value)
    for node in graph.nodes:
        writer.begin(node)
        with graph.problems.at(node.origin, [value.shape for value in node.inputs if value.array is None]):
            if node.operator not in known:
                raise Unsupported("has no counterpart in Caffe", "cut the net before it")
            whole = node.operator == "layer"
            read = [value for i, value in enumerate(node.inputs) if i == 0 or value.array is None or whole]
            bottoms = [writer.blob(value) for value in read]
            tops = known[node.operator](writer, node, bottoms)
            for value, top in zip(node.outputs, [tops] if isinstance(tops, str) else tops):
                assert writer.shape(top) == value.shape, (node.origin, node.operator, writer.shape(top), value.shape)
                writer.blobs[id(value)] = top
        for value in node.outputs:
            if id(value) not in writer.blobs:
                writer.stand_in(value)
    graph.problems.raise_any(source)
    with graph.problems.at("the outputs", []):
        model = writer.finish()
    graph.problems.raise_any(source)
    build_graph(read_net(model.definition, "TEST"), "TEST")
    return model
