"""Caffe's Solver over torch nets."""

from __future__ import annotations

from typing import Any

import torch

from caffe_bridge import definition as definitions
from caffe_bridge.graph import Graph
from caffe_bridge.net import Net
from caffe_bridge.solver_loop import SolverLoop


class Solver(SolverLoop[Net]):
    """Train a net as its solver prototxt says, with torch's autograd.

        solver = caffe_bridge.Solver("solver.prototxt", weights="vgg16.caffemodel")
        solver.step(100)
        solver.net.params["conv1_1"]

    Moving `solver.net` to a device before the first step moves the training there. See `SolverLoop` for arguments,
    attributes and errors. The nets have to feed themselves: their first layers are data layers.
    """

    def _make_net(self, definition: definitions.NetDefinition, weights: Any) -> Net:
        return Net(definition, weights)

    def _graph(self, net: Net) -> Graph:
        return net.graph

    def _graph_name(self) -> str:
        return self.net.name

    def _run(self, net: Net) -> tuple[torch.Tensor, list[tuple[str, torch.Tensor]]]:
        values = net()
        return net.loss(values), [(name, values[name]) for name in net.graph.outputs]

    def _forward(self, net: Net) -> tuple[float, list[tuple[str, torch.Tensor]]]:
        with torch.no_grad():
            loss, outputs = self._run(net)
        return float(loss), outputs

    def _forward_backward(self) -> tuple[float, list[tuple[str, torch.Tensor]]]:
        loss, outputs = self._run(self.net)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach()), outputs

    def _share(self, test_net: Net) -> None:
        share_parameters(test_net, self.net)

    def _load(self, path: str) -> None:
        self.net.load(path)

    def _save(self, path: str) -> None:
        self.net.save(path, with_gradients=self.param.snapshot_diff)


def share_parameters(net: Net, source: Net) -> None:
    """Let a net's parameters be those of another wherever layer names agree (Net::ShareTrainedLayersWith)."""
    theirs = {node.name: node.layer for node in source.graph.nodes}
    for node in net.graph.nodes:
        if node.name in theirs:
            for i in range(len(node.layer.blobs)):
                mine = node.layer.blobs.parameter(i)
                mine.data = theirs[node.name].blobs.parameter(i).data.view(mine.shape)
    net._placement = source._placement
