"""Running a net with torch.compile where that can be done: runs of layers whose shapes do not depend on data.

Samplers and proposals make as many RoIs as they find; they cut a net into pieces, each of which is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import torch

from caffe_bridge.graph import Node
from caffe_bridge.net import Net

STATIC = frozenset(
    {"BatchNorm", "Concat", "Convolution", "Eltwise", "InnerProduct", "LRN", "Pooling", "Power", "ReLU", "Scale"}
    | {"Sigmoid", "Softmax", "Split", "TanH"}
)
Blobs = dict[str, torch.Tensor]


class CompiledNet:
    """`Net.forward` for a net that feeds itself, in compiled pieces.

    Calling it returns the net's outputs. The first passes compile and take long; image sizes that vary are compiled
    once, as variables.
    """

    def __init__(self, net: Net):
        self.net = net
        pieces = [list(piece) for _, piece in groupby(net.graph.nodes, lambda node: node.type in STATIC)]
        self._pieces: list[Callable[[Blobs], Blobs]] = []
        later: set[str] = set(net.outputs)
        for piece in reversed(pieces):
            made = {top for node in piece for top in node.tops}
            keep = sorted(made & later)
            read = {bottom for node in piece for bottom in node.bottoms}
            compiles = len(piece) > 1 and piece[0].type in STATIC
            self._pieces.append(self._piece(piece, sorted(read), keep, compiles))
            later |= read
        self._pieces.reverse()

    def _piece(self, nodes: list[Node], read: list[str], keep: list[str], compiles: bool) -> Callable[[Blobs], Blobs]:
        def run(values: Blobs) -> Blobs:
            for node in nodes:
                self.net._run(node, values)
            return {name: values[name] for name in keep}

        compiled = torch.compile(run, dynamic=True) if compiles else run
        return lambda values: compiled({name: values[name] for name in read if name in values})

    def __call__(self) -> Blobs:
        values: Blobs = {}
        for piece in self._pieces:
            values.update(piece(values))
        return {name: values[name] for name in self.net.outputs}
