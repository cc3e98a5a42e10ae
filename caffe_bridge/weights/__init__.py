"""Reading and writing Caffe's weights, mean files and solver states.

    read(path) -> Weights                 .caffemodel (all generations) or HDF5, told apart by content
    load_into(params, weights)            copy by layer name; returns a LoadReport
    save_net, write_caffemodel, write_hdf5
    read_blobproto, write_blobproto       mean files
    read_solverstate, write_solverstate   both formats

Files are mapped, not loaded: arrays are read-only views. Writing replaces a file in one step. Whatever is wrong with
a file is a WeightsError that names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from caffe_bridge.weights import caffemodel, hdf5
from caffe_bridge.weights.blobproto import read_blobproto, write_blobproto
from caffe_bridge.weights.caffemodel import write_caffemodel
from caffe_bridge.weights.contents import StoredBlob, Weights
from caffe_bridge.weights.files import is_hdf5, map_file, named_hdf5
from caffe_bridge.weights.hdf5 import Owners, write_hdf5
from caffe_bridge.weights.report import LoadReport, copy_values, load_into
from caffe_bridge.weights.solverstate import SolverState, read_solverstate, write_solverstate

__all__ = [
    "LoadReport",
    "SolverState",
    "StoredBlob",
    "Weights",
    "copy_values",
    "load_into",
    "read",
    "read_blobproto",
    "read_solverstate",
    "save_net",
    "write_blobproto",
    "write_caffemodel",
    "write_hdf5",
    "write_solverstate",
]


def read(path: str | Path) -> Weights:
    """Open a weights file: .caffemodel of any generation, or HDF5 by its signature, whatever the name.

    Raises WeightsError when it cannot be read; names the file and, where known, the layer.
    """
    path = str(path)
    buffer = map_file(path)
    return hdf5.read(path, buffer) if is_hdf5(buffer) else caffemodel.read(path, buffer)


def save_net(
    path: str | Path,
    definition: Any,
    params: Mapping[str, Sequence[Any]],
    owners: Owners | None = None,
    *,
    kind: Literal["caffemodel", "hdf5"] | None = None,
    diffs: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Write a net's weights with its definition as .caffemodel, or in Caffe's HDF5 layout.

    Args:
        path: the file.
        definition: the NetParameter; its layers are written in order.
        params: layer name to arrays or tensors.
        owners: which parameters are shared; see `write_hdf5`.
        kind: by default HDF5 if the name ends in .h5 or .hdf5.
        diffs: layer name to the parameters' gradients, to be written as well.

    Raises:
        WeightsError: the file cannot be written, or a .caffemodel would be larger than 2 GB.
    """
    layers = [(layer, params.get(layer.name, ())) for layer in definition.layer]
    if named_hdf5(path) if kind is None else kind == "hdf5":
        write_hdf5(path, {layer.name: blobs for layer, blobs in layers}, owners, diffs)
    else:
        write_caffemodel(path, layers, definition.name, diffs)
