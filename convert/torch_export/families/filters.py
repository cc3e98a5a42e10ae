"""Layers with learned filters: convolutions, fully connected layers and tables."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_bridge.convert.torch_export.registry import WrittenLayer, writes
from caffe_bridge.convert.torch_export.source import Expression, ModuleSource, Weight, bias_of, blob, call, side
from caffe_bridge.layers.base import canonical_axis


@writes("Convolution", "DepthwiseConvolution", "ConvolutionDepthwise")
def convolution(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.Conv1d to nn.Conv3d."""
    layer = node.layer
    spatial = node.bottoms[0][layer.axis + 1 :]
    ends: list[int] = []
    for i in reversed(range(len(spatial))):
        lacking = layer.dilation[i] * (layer.kernel[i] - 1) + 1 - spatial[i] - 2 * layer.pad[i]
        ends += [0, lacking if 0 < lacking < layer.stride[i] else 0]
    if any(ends):
        # A kernel may overhang a small image by less than a stride: it reads zeros there.
        bottoms = [f"F.pad({bottom}, {tuple(ends)})" for bottom in bottoms]
    return _filtered(code, node, "Conv", bottoms)


@writes("Deconvolution")
def deconvolution(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.ConvTranspose1d to nn.ConvTranspose3d."""
    return _filtered(code, node, "ConvTranspose", bottoms)


def _filtered(code: ModuleSource, node: WrittenLayer, kind: str, bottoms: Sequence[str]) -> str:
    layer = node.layer
    made = call(
        f"nn.{kind}{len(layer.kernel)}d",
        layer.channels,
        layer.outputs,
        side(layer.kernel),
        stride=side(layer.stride, 1),
        padding=side(layer.pad, 0),
        dilation=side(layer.dilation, 1),
        groups=layer.group if layer.group != 1 else None,
        bias=False if len(layer.blobs) == 1 else None,
    )
    shape = tuple(layer.blobs[0].shape)
    weights = {"weight": blob(node, 0, (*shape, 1) if layer.pointwise else None), **bias_of(node)}
    module = code.submodule(made, **weights)
    tops = [_around(node, module, bottom) for bottom in bottoms]
    return tops[0] if len(tops) == 1 else f"({', '.join(tops)})"


def _around(node: WrittenLayer, module: str, bottom: str) -> str:
    """A call of the module on images; axes before the channels are one, and there is at least one spatial axis."""
    layer = node.layer
    images = f"{bottom}.unsqueeze(-1)" if layer.pointwise else bottom
    if layer.axis > 1:
        images = f"{images}.flatten(0, {layer.axis - 1})"
    top = f"{module}({images})"
    if layer.axis > 1:
        top += f".unflatten(0, {bottom}.shape[:{layer.axis}])"
    return f"{top}.squeeze(-1)" if layer.pointwise else top


@writes("InnerProduct")
def inner_product(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.Linear, after flattening everything from `axis` on."""
    layer, ndim = node.layer, len(node.bottoms[0])
    axis = canonical_axis(layer.axis, ndim)
    rows = bottoms[0] if axis == ndim - 1 else f"torch.flatten({bottoms[0]}, {axis})"
    weight = Weight(layer.blobs[0].t()) if layer.transpose else blob(node, 0)
    bias = bias_of(node)
    made = call("nn.Linear", layer.inputs, layer.outputs, bias=None if bias else False)
    return code.module(made, rows, weight=weight, **bias)


@writes("Embed")
def embed(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.Embedding."""
    rows, columns = node.layer.blobs[0].shape
    top = code.module(call("nn.Embedding", rows, columns), f"{bottoms[0]}.long()", weight=blob(node, 0))
    return f"{top} + {code.parameter(blob(node, 1))}" if len(node.layer.blobs) > 1 else top


@writes("Parameter")
def parameter(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """nn.Parameter."""
    return code.parameter(blob(node, 0))


@writes("Im2col")
def im2col(code: ModuleSource, node: WrittenLayer, bottoms: Sequence[str]) -> str:
    """Windows of the image, as Tensor.unfold takes them."""
    layer = node.layer
    geometry = [tuple(values) for values in (layer.kernel, layer.stride, layer.pad, layer.dilation)]
    x, note = Expression(bottoms[0]), code.note(node)
    return call(code.part("im2col"), x, *geometry, axis=layer.axis, layer=note)
