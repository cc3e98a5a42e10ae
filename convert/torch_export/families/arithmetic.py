"""Layers that combine blobs, or sum and sort within one."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_bridge.convert.torch_export.registry import WrittenLayer, writes
from caffe_bridge.convert.torch_export.source import Expression, ModuleSource, call, literal
from caffe_bridge.layers.base import canonical_axis


@writes("Eltwise")
def eltwise(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Sums, with coefficients where there are any, products, or torch.maximum."""
    layer = node.layer
    if layer.operation == "SUM":
        coefficients = layer.coefficients or [1.0] * len(bottoms)
        return " + ".join(b if c == 1 else f"{literal(c)} * {b}" for c, b in zip(coefficients, bottoms))
    if layer.operation == "PROD":
        return " * ".join(bottoms)
    top = bottoms[0]
    for bottom in bottoms[1:]:
        top = f"torch.maximum({top}, {bottom})"
    return top


@writes("Axpy")
def axpy(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """a * x + b, a per channel."""
    factor, x, term = bottoms
    own, wanted = len(node.bottoms[0]), len(node.bottoms[1])
    if own != wanted:
        ones = ", 1" * (wanted - 2)
        factor = f"{factor}.reshape(*{factor}.shape[:2]{ones})"
    return f"{factor} * {x} + {term}"


@writes("Reduction")
def reduction(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Sums and means over the last axes."""
    layer, ndim = node.layer, len(node.bottoms[0])
    axis = canonical_axis(layer.axis, ndim)
    values = bottoms[0] if axis == ndim - 1 else f"{bottoms[0]}.flatten({axis})"
    values += {"ASUM": ".abs()", "SUMSQ": ".square()"}.get(layer.operation, "")
    values += ".mean(-1)" if layer.operation == "MEAN" else ".sum(-1)"
    return values if layer.coeff == 1 else f"{literal(layer.coeff)} * {values}"


@writes("ArgMax")
def argmax(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """A sort in which the last of equal scores comes first."""
    layer = node.layer
    axis = None if layer.axis is None else canonical_axis(layer.axis, len(node.bottoms[0]))
    top_k = layer.top_k if layer.top_k != 1 else None
    with_values = layer.with_values or None
    x, note = Expression(bottoms[0]), code.note(node)
    return call(code.part("argmax"), x, top_k=top_k, axis=axis, with_values=with_values, layer=note)


@writes("BatchReindex")
def batch_reindex(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Indexing."""
    return f"{bottoms[0]}[{bottoms[1]}.long()]"


@writes("Filter")
def filter_(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Indexing by a mask."""
    *filtered, selector = map(Expression, bottoms)
    tops = call(code.part("filter_rows"), filtered, selector, layer=code.note(node))
    return tops if len(filtered) > 1 else f"{tops}[0]"


@writes("Softmax")
def softmax(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.Softmax."""
    return code.module(call("nn.Softmax", dim=canonical_axis(node.layer.axis, len(node.bottoms[0]))), *bottoms)
