"""A table of a net's layers."""

from __future__ import annotations

import math

from caffe_bridge.graph import Graph, Node
from caffe_bridge.layers.base import Shape

_PER_OUTPUT = ("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")
_HEADER = ("layer", "type", "top", "shape", "parameters", "MACs")


def multiply_accumulates(node: Node, shapes: dict[str, Shape]) -> int:
    """Multiply-accumulates of one forward pass of a convolution, deconvolution or inner product; 0 for others."""
    if not len(node.layer.blobs) or not node.tops:
        return 0
    weight = node.layer.blobs[0]
    bottom, top = shapes[node.bottoms[0]], shapes[node.tops[0]]
    if node.type in _PER_OUTPUT:
        return math.prod(top) * weight[0].numel()
    if node.type == "Deconvolution":
        return math.prod(bottom) * weight[0].numel()
    if node.type == "InnerProduct":
        outputs = node.layer.param.inner_product_param.num_output
        return math.prod(top) * (weight.numel() // outputs)
    return 0


def summarize(graph: Graph) -> str:
    """One line per top: layer, type, top, shape, parameters and MACs of the layer; shared parameters count once."""
    rows = [_HEADER]
    parameters = total_macs = 0
    for node in graph.nodes:
        own = sum(
            node.layer.blobs[i].numel() for i, owner in enumerate(graph.owners[node.name]) if owner == (node.name, i)
        )
        macs = multiply_accumulates(node, graph.shapes)
        parameters, total_macs = parameters + own, total_macs + macs
        for i, top in enumerate(node.tops or ["-"]):
            shape = " x ".join(map(str, graph.shapes[top])) if top in graph.shapes else ""
            counts = (f"{own:,}", f"{macs:,}") if i == 0 else ("", "")
            rows.append((node.name, node.type, top, shape, *counts) if i == 0 else ("", "", top, shape, *counts))
    rows.append(("total", "", "", "", f"{parameters:,}", f"{total_macs:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = [
        "  ".join(cell.rjust(width) if column >= 4 else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in ([*zip(row, widths)] for row in rows)
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(line.rstrip() for line in lines)
