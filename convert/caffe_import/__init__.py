"""ONNX graphs and exported torch programs as Caffe nets: definition and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caffe_bridge.convert.caffe_import.dialects import DIALECTS, find_dialect
from caffe_bridge.convert.caffe_import.problems import ConversionError
from caffe_bridge.convert.model import Model

if TYPE_CHECKING:
    import torch

__all__ = ["DIALECTS", "ConversionError", "import_onnx", "import_program"]


def import_onnx(
    source: Any,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    dialect: str = "bvlc",
    name: str | None = None,
) -> Model:
    """An ONNX model as a Caffe net that computes the same at inference.

    Args:
        source: a path, the file's bytes, or an onnx.ModelProto.
        input_shapes: shapes of inputs in place of the model's; needed where it leaves more than the batch open.
        dialect: whose layers may be used; one of DIALECTS.
        name: the net's name; the graph's own if not given.

    Returns:
        the net's definition, with Input layers, and its weights. Inputs and outputs keep their names.

    Raises:
        ConversionError: lists every node that Caffe cannot express.
        CaffeError: the file cannot be read, is no graph, or leaves sizes open.
    """
    from caffe_bridge.convert.caffe_import.emission import write_net
    from caffe_bridge.convert.caffe_import.onnx_files import read_model
    from caffe_bridge.convert.caffe_import.onnx_reader import read_graph

    model, found, folder = read_model(source)
    graph = read_graph(model, found, folder, input_shapes, find_dialect(dialect), name)
    return write_net(graph, find_dialect(dialect), found)


def import_program(program: torch.export.ExportedProgram, *, dialect: str = "bvlc", name: str | None = None) -> Model:
    """An exported torch program, as torch.export.export makes of a module in eval mode, as a Caffe net.

    Args:
        program: the program; sizes that it leaves open become those it was exported with.
        dialect: whose layers may be used; one of DIALECTS.
        name: the net's name.

    Returns:
        the net's definition and weights. Inputs are called as the module's arguments, layers as its submodules.

    Raises:
        ConversionError: lists every operator that Caffe cannot express.
    """
    from caffe_bridge.convert.caffe_import.emission import write_net
    from caffe_bridge.convert.caffe_import.program_reader import read_program

    return write_net(read_program(program, name), find_dialect(dialect), "the program")
