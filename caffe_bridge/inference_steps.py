"""The steps of an inference plan: one or several layers as one call of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from caffe_bridge.errors import LayerError
from caffe_bridge.graph import Graph, Node
from caffe_bridge.layers import functional
from caffe_bridge.layers.base import Shape

FILTERS = frozenset({"Convolution", "ConvolutionDepthwise", "DepthwiseConvolution"})
AFFINE = frozenset({"BatchNorm", "Bias", "Scale"})
# Layers that return new memory, never a bottom or a view of one.
MAKES_NEW = FILTERS | AFFINE | {"Deconvolution", "Eltwise", "InnerProduct", "LRN", "Pooling", "ReLU", "ReLU6"}
_ANY_FORMAT = MAKES_NEW - FILTERS - {"Deconvolution"} | {"Concat", "Dropout", "Sigmoid", "Split", "TanH"}

Packed = tuple[torch.Tensor, torch.Tensor | None]


def is_a(node: Node, types: frozenset[str]) -> bool:
    """Whether the layer is of one of these types, and not a user's own under the name of one."""
    return node.type in types and type(node.layer).__module__.startswith("caffe_bridge.layers.")


def filters_images(node: Node) -> bool:
    """Whether the layer is a convolution of (N, C, H, W) with one bottom, and of a usual geometry.

    Where channels lie side by side, oneDNN (of torch 2.13) makes mistakes, or reads outside its arrays, with some of
    those of one channel, with pads as wide as the kernel, and with long strides.
    """
    layer: Any = node.layer
    if not is_a(node, FILTERS) or len(node.bottoms) > 1 or layer.axis != 1 or layer.ndim != 4 or layer.channels == 1:
        return False
    extents = [dilation * (kernel - 1) + 1 for dilation, kernel in zip(layer.dilation, layer.kernel)]
    narrow_pads = all(pad < extent for pad, extent in zip(layer.pad, extents))
    return narrow_pads and len(set(layer.stride)) == 1 and layer.stride[0] <= min(4, max(2, min(extents)))


def adds(node: Node) -> bool:
    """Whether such a convolution can also add to its result."""
    layer: Any = node.layer
    return filters_images(node) and layer.stride[0] <= 2


def is_affine(node: Node) -> bool:
    """Whether the layer multiplies and adds constants of its own, one of each per channel (axis 1)."""
    layer: Any = node.layer
    if not is_a(node, AFFINE) or len(node.bottoms) > 1:
        return False
    if node.type == "BatchNorm":
        return layer.use_global_stats
    return layer.axis == 1 and layer.blobs[0].ndim == 1


def is_sum(node: Node) -> bool:
    """Whether the layer adds two different blobs."""
    layer: Any = node.layer
    two = is_a(node, frozenset({"Eltwise"})) and len(set(node.bottoms)) == len(node.bottoms) == 2
    return two and layer.operation == "SUM" and all(c == 1 for c in layer.coefficients)


def activation(node: Node) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The layer's function in place, for those that work on each value by itself; None for others."""
    layer: Any = node.layer
    if is_a(node, frozenset({"ReLU"})):
        slope = layer.negative_slope
        return (lambda x: F.leaky_relu_(x, slope)) if slope else torch.relu_
    if is_a(node, frozenset({"ReLU6"})) and not layer.negative_slope:
        return lambda x: F.hardtanh_(x, 0.0, 6.0)
    return None


class PackedWeights:
    """Weights as steps use them, by the names of the layers they come from; emptied when a parameter has changed."""

    def __init__(self, graph: Graph):
        self._parameters = [node.layer.blobs._parameters for node in graph.nodes if is_a(node, FILTERS | AFFINE)]
        self._kept: dict[tuple[str, ...], Packed] = {}
        self._fingerprint = 0

    def refresh(self) -> None:
        """Forget everything if any parameter differs from what it was at the last call."""
        tensors = [parameter for layer in self._parameters for parameter in layer.values() if parameter is not None]
        fingerprint = functional.fingerprint(tensors) if tensors else 0
        if fingerprint != self._fingerprint:
            self._kept, self._fingerprint = {}, fingerprint

    def of(self, nodes: Sequence[Node], make: Callable[[], Packed]) -> Packed:
        """What `make` returned for these layers, kept from the first call on."""
        key = tuple(node.name for node in nodes)
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


class Step:
    """Layers in their order, as one.

    Args:
        nodes: the layers; the first reads `reads[0]`, each other one what the one before it makes.
        reads: the values read, by number: the bottoms of a step of one layer, else the first layer's only bottom and,
            for a sum among the layers, its other bottom.
        makes: the values made, by number.
        activate: works in place on what the layers before the last one make; None if there is no activation.
    """

    def __init__(
        self,
        nodes: list[Node],
        reads: list[int],
        makes: list[int],
        activate: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        self.nodes, self.reads, self.makes = nodes, reads, makes
        self._activate = activate
        self._any_format = is_a(nodes[0], _ANY_FORMAT)

    def run(self, bottoms: list[torch.Tensor], place: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The values made. Raises LayerError naming the layer."""
        if not self._any_format:
            bottoms = [bottom.contiguous() for bottom in bottoms]
        tops = self.nodes[0].run(bottoms, place)
        return tops if self._activate is None else (self._activate(tops[0]),)


class _Combined(Step):
    """Layers of which none runs by itself."""

    def __init__(self, weights: PackedWeights, *args: Any):
        super().__init__(*args)
        self._weights = weights
        self._accepted: list[Shape] = []

    def run(self, bottoms: list[torch.Tensor], place: torch.Tensor) -> tuple[torch.Tensor, ...]:
        shapes = [tuple(bottom.shape) for bottom in bottoms]
        try:
            if shapes != self._accepted:
                self._accept(shapes)
            if not bottoms[0].numel():
                return self._layer_by_layer(bottoms, place)
            top = self._compute(bottoms)
        except RuntimeError as error:
            raise self.nodes[0].located(error, shapes) from error
        return (top if self._activate is None else self._activate(top),)

    def _accept(self, shapes: list[Shape]) -> None:
        """Let every layer refuse its bottoms' shapes, as it would if it ran."""
        shape, others = shapes[0], shapes[1:]
        for node in self.nodes:
            given = [shape, *others] if is_sum(node) else [shape]
            try:
                node.accept(given)
                shape = node.layer.top_shapes(given)[0]
            except LayerError as error:
                raise node.located(error, given) from error
        self._accepted = shapes

    def _layer_by_layer(self, bottoms: list[torch.Tensor], place: torch.Tensor) -> tuple[torch.Tensor, ...]:
        value, others = bottoms[0], bottoms[1:]
        for node in self.nodes:
            (value,) = node.run([value, *others] if is_sum(node) else [value], place)
        return (value,)

    def _compute(self, bottoms: list[torch.Tensor]) -> torch.Tensor:
        raise NotImplementedError

    def _factor_and_term(self, nodes: Sequence[Node], channels: int) -> tuple[torch.Tensor, torch.Tensor]:
        """float64 [C] each: what affine layers, one after the other, multiply by and then add."""
        factor, term = torch.ones(channels, dtype=torch.double), torch.zeros(channels, dtype=torch.double)
        for node in nodes:
            own_factor, own_term = _constants(node)
            factor, term = factor * own_factor, term * own_factor + own_term
        return factor, term


def _constants(node: Node) -> tuple[torch.Tensor | float, torch.Tensor | float]:
    layer: Any = node.layer
    blobs = [blob.detach().double() for blob in layer.blobs]
    if node.type == "Bias":
        return 1.0, blobs[0]
    if node.type == "Scale":
        return blobs[0], blobs[1] if layer.with_bias else 0.0
    mean, variance, divisor = blobs
    scale = torch.where(divisor == 0, 0, 1 / divisor)
    factor = (variance * scale + layer.eps).rsqrt()
    return factor, -mean * scale * factor


class AffineStep(_Combined):
    """Affine layers, and an activation behind them."""

    def _compute(self, bottoms: list[torch.Tensor]) -> torch.Tensor:
        (bottom,) = bottoms
        affine = self.nodes if self._activate is None else self.nodes[:-1]
        factor, term = self._weights.of(affine, lambda: self._make(affine, bottom.shape[1]))
        zero, one = torch.zeros_like(factor), torch.ones_like(factor)
        return torch.batch_norm(bottom, factor, term, zero, one, False, 0.0, 0.0, False)

    def _make(self, affine: Sequence[Node], channels: int) -> Packed:
        factor, term = self._factor_and_term(affine, channels)
        return factor.float(), term.float()


class FilterStep(_Combined):
    """A convolution, affine layers behind it, a sum with another value, and an activation; all but the first optional.

    `overwrite` puts the sum into the other value's memory, which nobody may read afterwards.
    """

    def __init__(self, overwrite: bool, *args: Any):
        super().__init__(*args)
        self._overwrite = overwrite
        self._folded = [self.nodes[0], *(node for node in self.nodes[1:] if is_affine(node))]

    def _compute(self, bottoms: list[torch.Tensor]) -> torch.Tensor:
        layer: Any = self.nodes[0].layer
        images = layer.extended(bottoms[0]).contiguous(memory_format=torch.channels_last)
        weight, bias = self._weights.of(self._folded, lambda: self._pack(list(images.shape)))
        geometry = (layer.pad, layer.stride, layer.dilation, layer.group)
        oneDNN = torch.ops.mkldnn
        if len(bottoms) == 1:
            return oneDNN._convolution_pointwise(images, weight, bias, *geometry, "none", [], "")
        other = bottoms[1].contiguous(memory_format=torch.channels_last)
        add = oneDNN._convolution_pointwise_ if self._overwrite else oneDNN._convolution_pointwise
        if self._overwrite:
            return add.binary(other, images, weight, bias, *geometry, "add", None, None, [], None)
        return add.binary(images, other, weight, bias, *geometry, "add", None, None, [], None)

    def _pack(self, size: list[int]) -> Packed:
        """The weights with what follows folded in, as oneDNN wants them for images of this size."""
        layer: Any = self.nodes[0].layer
        weight = layer.blobs[0].detach()
        bias = layer.blobs[1].detach() if len(layer.blobs) > 1 else None
        if len(self._folded) > 1:
            factor, term = self._factor_and_term(self._folded[1:], layer.outputs)
            weight = weight * factor.float().view(-1, 1, 1, 1)
            bias = (term if bias is None else bias * factor + term).float()
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight.contiguous(), layer.pad, layer.stride, layer.dilation, layer.group, size
        )
        return packed, bias
