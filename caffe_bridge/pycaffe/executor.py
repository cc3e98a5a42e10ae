"""Runs a net layer by layer over persistent blobs, the way Caffe does: no fusing, freeing or reordering."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch

from caffe_bridge.blob import Blob, ParameterBlob
from caffe_bridge.errors import CaffeError, LayerError
from caffe_bridge.graph import Node
from caffe_bridge.net import Net
from caffe_bridge.python_layer import PythonLayer


@dataclass
class _Pass:
    """What a layer's backward pass needs of its forward pass."""

    bottoms: list[torch.Tensor] = field(default_factory=list)
    edges: list[Any] = field(default_factory=list)


class Executor:
    """Forward and backward of single layers of a torch net over `Blob`s.

    Each layer runs under its own small autograd graph, whose leaves alias the bottom blobs' memory; the blobs in
    between carry values and gradients, so each may be read or overwritten between two layers, as in Caffe.
    """

    def __init__(self, net: Net):
        self.nodes = net.graph.nodes
        self._place: Any = net._placement
        self.blobs: OrderedDict[str, Blob] = OrderedDict()
        self.params: OrderedDict[str, list[Blob]] = OrderedDict()
        self.owned_params: list[ParameterBlob] = []
        self._passes = [_Pass() for _ in self.nodes]
        # A layer without bottoms that returns the very tensor of its last pass (DummyData's constants) makes nothing
        # new, and what a script wrote into the blob stays, as in Caffe.
        self._constants: dict[str, torch.Tensor] = {}
        self._make_params(net)
        for node in self.nodes:
            self._make_tops(node, net)

    def _make_params(self, net: Net) -> None:
        for node in self.nodes:
            blobs: list[Blob] = []
            for i, (owner, index) in enumerate(net.graph.owners[node.name]):
                parameter, shape = node.layer.blobs.parameter(i), tuple(node.layer.blobs[i].shape)
                if (owner, index) == (node.name, i):
                    blob = ParameterBlob(parameter)
                    self.owned_params.append(blob)
                else:
                    shared = (blobs if owner == node.name else self.params[owner])[index]
                    assert isinstance(shared, ParameterBlob)
                    blob = shared if shared.shape == shape else ParameterBlob(parameter, shape)
                blobs.append(blob)
                if isinstance(node.layer, PythonLayer):
                    node.layer.adopt_parameter(i, blob)
            if blobs:
                self.params[node.name] = blobs

    def _make_tops(self, node: Node, net: Net) -> None:
        for i, name in enumerate(node.tops):
            if name not in self.blobs:
                if isinstance(node.layer, PythonLayer) and self._place.device.type == "cpu":
                    self.blobs[name] = node.layer.top_blobs[i]
                else:
                    self.blobs[name] = Blob(device=self._place.device, dtype=self._place.dtype)
            blob = self.blobs[name]
            if node.layer.shares_data:
                self._share(node, blob, net.graph.shapes[name])
            else:
                blob.reshape(*net.graph.shapes[name])
            if node.loss_weights[i]:
                blob.diff_tensor.fill_(node.loss_weights[i])

    def _share(self, node: Node, top: Blob, shape: tuple[int, ...]) -> None:
        owner = self.blobs[node.bottoms[0]] if node.bottoms else self.params[node.name][0]
        if top is owner:
            return
        top.share_data(owner, shape)
        if len(node.tops) == 1:
            top.share_diff(owner)

    def _tops(self, node: Node) -> list[Blob]:
        return [self.blobs[name] for name in node.tops]

    def _bottoms(self, node: Node) -> list[Blob]:
        return [self.blobs[name] for name in node.bottoms]

    def forward(self, index: int) -> float:
        """Run one layer; returns its part of the loss."""
        node = self.nodes[index]
        if node.type == "Input":
            return 0.0
        bottoms, tops = self._bottoms(node), self._tops(node)
        if isinstance(node.layer, PythonLayer):
            node.layer.forward_blobs(bottoms, tops)
        else:
            self._forward_layer(node, index, bottoms, tops)
        loss = 0.0
        for blob, weight in zip(tops, node.loss_weights):
            if weight:
                loss += weight * float(blob.tensor.sum())
        return loss

    def _forward_layer(self, node: Node, index: int, bottoms: list[Blob], tops: list[Blob]) -> None:
        for name, blob, value in zip(node.tops, tops, self._compute(node, index, bottoms)):
            if node.layer.shares_data:
                self._share(node, blob, tuple(value.shape))
            elif self._constants.get(name) is not value:
                blob.set(value)
                if not node.bottoms:
                    self._constants[name] = value

    def _compute(self, node: Node, index: int, bottoms: list[Blob]) -> tuple[torch.Tensor, ...]:
        """The tops of a layer, keeping what its backward pass needs."""
        in_place = set(node.bottoms) & set(node.tops)
        values = []
        for name, blob, need in zip(node.bottoms, bottoms, node.bottom_need_backward):
            value = blob.tensor.clone() if name in in_place else blob.tensor.data
            values.append(value.requires_grad_(need and node.need_backward))
        for i, need in enumerate(node.param_need_backward):
            node.layer.blobs.parameter(i).requires_grad_(need)
        try:
            node.accept([blob.shape for blob in bottoms])
            with torch.set_grad_enabled(node.need_backward):
                made = node.layer(*values)
        except (RuntimeError, IndexError, ValueError) as error:
            if isinstance(error, CaffeError) and not isinstance(error, LayerError):
                raise
            raise node.located(error, [b.shape for b in bottoms]) from error
        made = (made,) if isinstance(made, torch.Tensor) else made
        edge = torch.autograd.graph.get_gradient_edge
        self._passes[index] = _Pass(values, [edge(top) if top.requires_grad else None for top in made])
        return made

    def backward(self, index: int) -> None:
        """Run one layer's backward pass if Caffe's rules want it: bottoms' diffs are set, parameters' added to."""
        node = self.nodes[index]
        gradient_is_shared = node.layer.shares_data and not node.bottoms
        if not node.need_backward or node.type == "Input" or gradient_is_shared:
            return
        bottoms, tops = self._bottoms(node), self._tops(node)
        if isinstance(node.layer, PythonLayer):
            node.layer.backward_blobs(tops, list(node.bottom_need_backward), bottoms)
            return
        for i, need in enumerate(node.bottom_need_backward):
            if need and i in node.layer.no_gradient:
                error = LayerError(f"cannot compute the gradient of bottom {i} ('{node.bottoms[i]}')")
                raise node.located(error, [b.shape for b in bottoms])
        self._backward_layer(node, index, bottoms, tops)

    def _backward_layer(self, node: Node, index: int, bottoms: list[Blob], tops: list[Blob]) -> None:
        shapes = [blob.shape for blob in bottoms]
        if [value.shape for value in self._passes[index].bottoms] != shapes:
            self._compute(node, index, bottoms)  # no forward pass since the bottoms got their shapes
        done = self._passes[index]
        differentiable = [need and i not in node.layer.constants for i, need in enumerate(node.bottom_need_backward)]
        wanted = [(b, v) for b, v, need in zip(bottoms, done.bottoms, differentiable) if need]
        params = [
            (i, blob, node.layer.blobs.parameter(i))
            for i, (blob, need) in enumerate(zip(self.params.get(node.name, []), node.param_need_backward))
            if need
        ]
        outputs = [(edge, top.diff_tensor.data) for edge, top in zip(done.edges, tops) if edge is not None]
        if not outputs:
            for blob, _ in wanted:
                blob.diff_tensor.zero_()
            return
        leaves = [value for _, value in wanted] + [parameter for _, _, parameter in params]
        if not leaves:
            return
        gradients = torch.autograd.grad(
            [edge for edge, _ in outputs], leaves, [diff for _, diff in outputs], retain_graph=True, allow_unused=True
        )
        for (blob, _), gradient in zip(wanted, gradients):
            if gradient is None:
                blob.diff_tensor.zero_()
            else:
                blob.diff_tensor.copy_(gradient)
        for (i, blob, _), gradient in zip(params, gradients[len(wanted) :]):
            if gradient is None:
                continue
            if node.layer.sets_gradient(i, shapes):
                blob.diff_tensor.zero_()
            blob.diff_tensor.add_(gradient.view(blob.shape))

    def reshape(self) -> None:
        """Propagate the inputs' shapes through the net."""
        for node in self.nodes:
            if node.type == "Input":
                continue
            bottoms = self._bottoms(node)
            shapes = [blob.shape for blob in bottoms]
            try:
                made = node.layer.top_shapes(shapes)
            except LayerError as error:
                raise node.located(error, shapes) from error
            for blob, shape in zip(self._tops(node), made):
                if node.layer.shares_data:
                    self._share(node, blob, tuple(shape))
                else:
                    blob.reshape(*shape)
