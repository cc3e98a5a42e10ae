"""Nets written for PyTorch: stand-alone source, exported programs, and state dicts for torchvision's networks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from caffe_bridge.convert.model import Model
from caffe_bridge.convert.onnx_files import build_net
from caffe_bridge.convert.tensor_files import save_tensors
from caffe_bridge.convert.torch_export import TorchModule, torch_module
from caffe_bridge.convert.torch_export.torchvision import TorchvisionWeights, torchvision_weights
from caffe_bridge.errors import CaffeError, first_line
from caffe_bridge.net import Net
from caffe_bridge.weights.files import replacing

_STATISTICS = ("running_mean", "running_var")


def weights_beside(path: str) -> str:
    """The .safetensors file that goes with a module's source."""
    return os.path.splitext(path)[0] + ".safetensors"


def write_source(path: str, model: Model, *, weights: str | None = None, half: bool = False) -> None:
    """A net in TEST as PyTorch source, with its weights as .safetensors.

    Args:
        path: the .py file to write; its function load(path) reads the weights.
        model: definition and weights.
        weights: the .safetensors file to write; beside the source under its name if not given.
        half: store all tensors but running statistics in half precision.
    """
    written = torch_module(build_net(model, copy=False))
    with replacing(weights or weights_beside(path)) as temporary:
        save_tensors(temporary, _halved(written.tensors) if half else written.tensors)
    with replacing(path) as temporary:
        Path(temporary).write_text(written.source, encoding="utf-8")


def write_torchvision(path: str, model: Model, *, architecture: str = "auto", half: bool = False) -> TorchvisionWeights:
    """A state dict for a network of torchvision, as .safetensors or else as torch.save writes it.

    Args:
        path: the file to write.
        model: definition and weights.
        architecture: the network; see `torchvision_weights`, which says what is refused.
        half: store all tensors but running statistics in half precision.
    """
    made = torchvision_weights(build_net(model, copy=False), architecture)
    tensors = _halved(made.state) if half else made.state
    with replacing(path) as temporary:
        if path.lower().endswith(".safetensors"):
            save_tensors(temporary, tensors)
        else:
            torch.save(tensors, temporary)
    return made


def _halved(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors in half precision, but running statistics."""
    kept = {name for name, tensor in tensors.items() if not tensor.is_floating_point() or name.endswith(_STATISTICS)}
    return {name: tensor if name in kept else tensor.half() for name, tensor in tensors.items()}


def write_program(path: str, model: Model) -> None:
    """A net in TEST as an exported program, any batch where every layer accepts others.

    It holds torch's own operators, so that `torch.export.load` is all it takes to run it; but layers that torch cannot
    look into, as those that choose boxes, are operators torch.ops.caffe. Importing the net's source, as `write_source`
    writes it, or `load_program` makes them known.

    Raises CaffeError where torch cannot export a layer.
    """
    net = build_net(model)
    written = torch_module(net)
    program = export_program(net, written)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names files of this machine
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.export.save(program, file)


def export_program(net: Net, written: TorchModule) -> torch.export.ExportedProgram:
    """The exported program of a net written as source; see `write_program`."""
    from caffe_bridge.convert.onnx_export.sizes import find_sizes

    sizes = find_sizes(net.graph, ["batch"])
    tops = {name: dims for node, row in zip(net.graph.nodes, sizes.tops) for name, dims in zip(node.tops, row)}
    batch = torch.export.Dim("batch")
    arguments, dynamic = [], {}
    for variable, name in zip(written.inputs, net.inputs):
        free = net.graph.shapes[name] and tops[name][0] == "batch"
        shape = [max(net.graph.shapes[name][0], 2), *net.graph.shapes[name][1:]] if free else net.graph.shapes[name]
        arguments.append(torch.zeros(tuple(shape)))
        dynamic[variable] = {0: batch} if free else None
    try:
        with torch.no_grad():
            return torch.export.export(written.module(), tuple(arguments), dynamic_shapes=dynamic)
    except Exception as error:  # torch raises whatever it stumbles over
        raise CaffeError(f"torch cannot export net '{net.name}': {first_line(error)}") from error
