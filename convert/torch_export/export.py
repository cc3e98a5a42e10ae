"""From a net to the source of a PyTorch module and its weights."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from caffe_bridge.convert.torch_export.parts import source_of
from caffe_bridge.convert.torch_export.registry import WrittenLayer, writer
from caffe_bridge.convert.torch_export.source import ModuleSource, identifier, literal, variable_names, wrapped
from caffe_bridge.convert.wiring import Wiring, wire
from caffe_bridge.errors import CaffeError, LayerError
from caffe_bridge.graph import Node
from caffe_bridge.layers.base import Shape, canonical_axis
from caffe_bridge.net import Net

LOAD = '''def load(path: str | Path) -> Net:
    """The net with its weights from a .safetensors file, ready for inference."""
    net = Net()
    load_model(net, path)
    return net.eval()
'''


@dataclass(frozen=True)
class TorchModule:
    """A net as PyTorch source, which needs torch and safetensors alone.

    Attributes:
        source: a module with the class Net and the function load(path).
        tensors: the weights by their names in the state dict; one that is shared is there once.
        inputs: names of the arguments of `forward`, in order, for the net's inputs in theirs.
        outputs: names of the output blobs; `forward` returns the one there is, or a dict of them.
    """

    source: str
    tensors: dict[str, torch.Tensor]
    inputs: list[str]
    outputs: list[str]

    def module(self) -> torch.nn.Module:
        """The module itself, with its weights, in eval mode."""
        names: dict[str, Any] = {"__name__": "converted"}
        exec(compile(self.source, "<converted net>", "exec"), names)
        module = names["Net"]()
        missing, unexpected = module.load_state_dict(self.tensors, strict=False)
        shared = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        shared -= {name for name, _ in module.named_parameters()}
        assert not unexpected and set(missing) <= shared
        return module.eval()


def torch_module(net: Net) -> TorchModule:
    """A net, as it computes in TEST, as PyTorch source and weights.

    The module's submodules are called after the layers, its variables after the blobs, as far as Python allows it. A
    Scale layer that alone reads a BatchNorm becomes that module's weight and bias. The states of RNN and LSTM begin
    as zeros at each run.

    Raises:
        LayerError: a layer cannot be written; names it, its type and what to do.
        CaffeError: a net for training.
    """
    if net.phase != "TEST":
        raise CaffeError("only nets built with phase='TEST' can be written as PyTorch source")
    code = ModuleSource()
    wiring = wire((node.bottoms, node.tops) for node in net.graph.nodes)
    taken: set[str] = set()
    name = functools.cache(lambda blob: identifier(blob, taken, variable_names()))
    steps: list[str] = []
    merged: set[int] = set()
    for i, node in enumerate(net.graph.nodes):
        if node.type == "Input":
            for top in node.tops:
                name(top)
        if node.type == "Input" or i in merged:
            continue
        layer, tops = _written(net, node), node.tops
        follower = _scale_after(net, wiring, i)
        if follower is not None:
            merged.add(follower)
            scale = net.graph.nodes[follower]
            layer, tops = WrittenLayer(**{**vars(layer), "scale": _written(net, scale)}), scale.tops
        code.begin(node.name)
        try:
            value = writer(layer.type)(code, layer, [name(bottom) for bottom in node.bottoms])
        except LayerError as error:
            raise node.located(error, layer.bottoms) from error
        if value:
            steps.append(f"{', '.join(name(top) for top in tops)} = {value}")
    inputs, outputs = [name(blob) for blob in net.inputs], net.outputs
    source = _source(net, code, steps, inputs, {blob: name(blob) for blob in outputs})
    return TorchModule(source, code.tensors, inputs, outputs)


def _written(net: Net, node: Node) -> WrittenLayer:
    type_ = node.type
    if type_ == "Python":
        python = node.layer.param.python_param
        type_ = f"{python.module}.{python.layer}"
    bottoms, tops = ([net.graph.shapes[blob] for blob in blobs] for blobs in (node.bottoms, node.tops))
    return WrittenLayer(node.name, type_, node.layer, bottoms, tops, net.graph.owners[node.name])


def _scale_after(net: Net, wiring: Wiring, index: int) -> int | None:
    """The Scale layer with a learned factor per channel that alone reads the values of a BatchNorm."""
    node = net.graph.nodes[index]
    reader = wiring.only_reader((index, 0)) if node.type == "BatchNorm" else None
    if reader is None or net.graph.nodes[reader].type != "Scale":
        return None
    scale: Any = net.graph.nodes[reader].layer
    ndim = len(net.graph.shapes[node.tops[0]])
    per_channel = scale.learned and canonical_axis(scale.axis, ndim) == 1 and scale.blobs[0].ndim == 1
    return reader if per_channel and ndim <= 5 else None


def _source(net: Net, code: ModuleSource, steps: Sequence[str], inputs: list[str], outputs: dict[str, str]) -> str:
    parts = source_of(code.used)
    text = "\n".join([*code.setup, *steps, *parts])
    imports = [f"import {name}" for name in ("functools", "math") if re.search(rf"\b{name}\.", text)]
    torch_imports = ["import torch"] if re.search(r"\btorch\.", text) else []
    torch_imports += ["import torch.nn.functional as F"] if re.search(r"\bF\.", text) else []
    lines = [
        f'"""{_title(net)} in PyTorch, converted from Caffe by caffe-bridge."""',
        "",
        "from __future__ import annotations",
        "",
        *imports,
        "from pathlib import Path",
        "",
        *torch_imports,
        "from safetensors.torch import load_model",
        "from torch import Tensor, nn",
        "",
    ]
    lines += _layers(code.notes)
    for part in parts:
        lines += ["", part, ""]
    given = ", ".join(f"{variable}: Tensor" for variable in inputs)
    result = "Tensor" if len(outputs) == 1 else "dict[str, Tensor]"
    lines += ["", "class Net(nn.Module):"]
    lines += [*_docstring(net, inputs, outputs), ""]
    lines += ["    def __init__(self):", "        super().__init__()"]
    for line in code.setup:
        lines += wrapped(line, 8)
    lines += ["", f"    def forward({', '.join(['self', given] if given else ['self'])}) -> {result}:"]
    for step in steps:
        lines += wrapped(step, 8)
    variables = list(outputs.values())
    if len(outputs) == 1:
        lines.append(f"        return {variables[0]}")
    else:
        pairs = [f"{literal(blob)}: {variable}" for blob, variable in outputs.items()]
        lines += ["        return {", *(f"            {pair}," for pair in pairs), "        }"]
    return "\n".join([*lines, "", "", LOAD])


def _layers(notes: dict[str, str]) -> list[str]:
    """The table of the layers that exported programs keep as operators."""
    if not notes:
        return []
    lines = ["# Layers that programs made by torch.export keep whole, for who makes a Caffe net of them."]
    lines += ["LAYERS = {"]
    for key, text in notes.items():
        lines.append(f"    {literal(key)}: (")
        quoted = (ascii(line) if '"' in line else literal(line) for line in text.splitlines(keepends=True))
        lines += [f"        {line}" for line in quoted]
        lines.append("    ),")
    return [*lines, "}", ""]


def _title(net: Net) -> str:
    """The net's name as far as it is plain text."""
    return re.sub(r"[^\w .,()/+-]", "_", net.name, flags=re.ASCII)[:80].strip() or "A net"


def _docstring(net: Net, inputs: list[str], outputs: dict[str, str]) -> list[str]:
    def shape(blob: str) -> str:
        return str(_batched(net.graph.shapes[blob]))

    lines = ['    """Takes and returns blobs of the shapes they have in the prototxt; the batch may be another.', ""]
    lines += [f"    {variable}: {shape(blob)}" for variable, blob in zip(inputs, net.inputs)]
    lines += [f"    returns {literal(blob)}: {shape(blob)}" for blob in outputs]
    return [*lines, '    """']


def _batched(shape: Shape) -> str:
    return f"({', '.join(['N', *map(str, shape[1:])])}{',' * (len(shape) == 1)})" if shape else "()"
