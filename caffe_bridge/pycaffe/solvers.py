"""pycaffe's solvers."""

from __future__ import annotations

from typing import Any

import torch

from caffe_bridge import definition as definitions
from caffe_bridge import optim
from caffe_bridge.errors import SolverError
from caffe_bridge.graph import Graph
from caffe_bridge.pycaffe import debug_info
from caffe_bridge.pycaffe.net import Net, SplitNet
from caffe_bridge.solver_loop import SolverLoop


class Solver(SolverLoop[Net]):
    """A solver whose nets are pycaffe nets; `get_solver` picks the class that the prototxt names.

    As in Caffe a restored run starts its data over.
    """

    rule: str | None = None
    continues_data = False

    def __init__(self, solver_file: Any, path: str = ""):
        super().__init__(solver_file, path=path)
        for net in self.test_nets:
            net.debug_info = self.param.debug_info

    def _check(self) -> None:
        if self.rule is not None:
            self.param.type = self.rule
        super()._check()

    def _make_net(self, definition: definitions.NetDefinition, weights: Any) -> Net:
        return Net.from_torch(SplitNet(definition, weights, python_layers="import"))

    def _graph(self, net: Net) -> Graph:
        return net.torch_net.graph

    def _graph_name(self) -> str:
        return self.net.name

    def _outputs(self, net: Net) -> list[tuple[str, torch.Tensor]]:
        return [(name, net.blobs[name].tensor) for name in net.outputs]

    def _forward(self, net: Net) -> tuple[float, list[tuple[str, torch.Tensor]]]:
        return net._forward(0, len(net.layers) - 1), self._outputs(net)

    def _forward_backward(self) -> tuple[float, list[tuple[str, torch.Tensor]]]:
        displayed = bool(self.param.display) and self.iter % self.param.display == 0
        self.net.debug_info = self.param.debug_info and displayed
        loss, outputs = self._forward(self.net)
        self.net._backward(len(self.net.layers) - 1, 0)
        if self.net.debug_info:
            debug_info.log_parameters(self.learnable)
        return loss, outputs

    def _share(self, test_net: Net) -> None:
        test_net.share_with(self.net)

    def _load(self, path: str) -> None:
        self.net.copy_from(path)

    def _save(self, path: str) -> None:
        self.net.torch_net.save(path, with_gradients=self.param.snapshot_diff)

    def share_weights(self, net: Net) -> None:
        """Let another net use this solver's parameters."""
        net.share_with(self.net)


class SGDSolver(Solver):
    rule = "SGD"


class NesterovSolver(SGDSolver):
    rule = "Nesterov"


class AdaGradSolver(SGDSolver):
    rule = "AdaGrad"


class RMSPropSolver(SGDSolver):
    rule = "RMSProp"


class AdaDeltaSolver(SGDSolver):
    rule = "AdaDelta"


class AdamSolver(SGDSolver):
    rule = "Adam"


def get_solver(solver_file: Any, path: str = "") -> Solver:
    """The solver that a prototxt describes; `path` is where a SolverParameter was read from, to find its nets."""
    param, _ = definitions.read_solver(solver_file)
    classes: list[type[Solver]] = [SGDSolver, *SGDSolver.__subclasses__()]
    for cls in classes:
        if cls.rule == param.type:
            return cls(solver_file, path)
    raise SolverError(f"solver type '{param.type}' is unknown; Caffe has {', '.join(optim.RULES)}")
