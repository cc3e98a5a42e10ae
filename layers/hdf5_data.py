"""HDF5Data and HDF5Output: arrays from and to HDF5 files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import torch

from caffe_bridge.errors import LayerError, WeightsError
from caffe_bridge.layers.base import Layer, Shape, check_shape, eager
from caffe_bridge.layers.image_batch import check_batch_size
from caffe_bridge.listing import read_text
from caffe_bridge.registry import register
from caffe_bridge.solver_shares import Turns
from caffe_bridge.stream import EpochOrder, Stream, restoring
from caffe_bridge.weights import hdf5
from caffe_bridge.weights.files import map_file, replacing, to_array


@register("HDF5Data")
class HDF5Data(Layer):
    """Rows of the data sets that the tops are named after, from the HDF5 files of a list, round and round.

    The source is a text file of HDF5 file names. Each top is (batch_size, ...) with the data set's further axes. A
    batch may end in the next file. `shuffle` draws a new order of the files, and of the rows in each file, every
    time. One file is held at a time; data sets that are not packed are mapped, not loaded. Solvers that train together
    share the rows (`caffe_bridge.solver_shares`).
    """

    bottoms = (0, 0)
    tops = (1, None)

    def setup(self, bottom_shapes: list[Shape]) -> None:
        param = self.param.hdf5_data_param
        if self.param.HasField("transform_param"):
            raise LayerError("HDF5Data does not transform data; remove transform_param")
        check_batch_size(param.batch_size)
        self.batch_size: int = param.batch_size
        self.paths = read_text(param.source).split()
        if not self.paths:
            raise LayerError(f"source {param.source}: the list is empty")
        self.files = EpochOrder(len(self.paths), Stream() if param.shuffle else None)
        self.rows = EpochOrder(1, Stream() if param.shuffle else None)
        self.turns = Turns(self.phase)
        self._row_shapes: list[Shape] = []
        self._open()

    def _open(self) -> None:
        path = self.paths[self.files.current]
        try:
            arrays = _read_datasets(path, list(self.param.top))
        except WeightsError as error:
            raise LayerError(str(error)) from error
        row_shapes = [array.shape[1:] for array in arrays]
        if self._row_shapes and row_shapes != self._row_shapes:
            raise LayerError(f"{path}: rows have shapes {row_shapes}, those of earlier files {self._row_shapes}")
        self._arrays, self._row_shapes = arrays, row_shapes
        self.rows.restart(len(arrays[0]))

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        return [(self.batch_size, *shape) for shape in self._row_shapes]

    @eager
    def forward(self) -> tuple[torch.Tensor, ...]:
        tops = [np.empty(shape, np.float32) for shape in self.top_shapes([])]
        for i in range(self.batch_size):
            for _ in range(self.turns.skip()):
                self._advance()
            row = self.rows.current
            for top, array in zip(tops, self._arrays):
                top[i] = array[row]
            self._advance()
        return tuple(torch.from_numpy(top) for top in tops)

    def _advance(self) -> None:
        if self.rows.advance() and len(self.paths) > 1:
            self.files.advance()
            self._open()

    def stream_state(self) -> dict[str, Any]:
        """The file, the row and the random draws, for a snapshot."""
        return {"files": self.files.state(), "rows": self.rows.state(), "turns": self.turns.state()}

    def set_stream_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `stream_state`. Raises LayerError when there are other files or rows by now."""
        with restoring():
            self.files.set_state(state["files"])
            self._open()
            self.rows.set_state(state["rows"])
            self.turns.set_state(state["turns"])


def _read_datasets(path: str, names: list[str]) -> list[np.ndarray]:
    """Data sets of a file, all with the same number of rows. Raises LayerError and WeightsError naming the file."""
    buffer = map_file(path)
    arrays = []
    with hdf5.open_file(path) as file, hdf5.explained(path):
        for name in names:
            if not hdf5.has(file, name):
                raise LayerError(f"{path}: holds no data set '{name}'; the tops are named after data sets")
            data = hdf5.child(path, file, name)
            if not isinstance(data, h5py.Dataset):
                raise LayerError(f"{path}: '{name}' is a group, not a data set")
            blob = hdf5.stored_blob(path, data, buffer)
            check_shape(f"{path}: '{name}'", blob.shape)
            if not blob.shape or blob.shape[0] == 0:
                raise LayerError(f"{path}: '{name}' of shape {blob.shape} has no rows")
            arrays.append(blob.array())
            if len(arrays[-1]) != len(arrays[0]):
                raise LayerError(f"{path}: '{name}' has {len(arrays[-1])} rows, '{names[0]}' {len(arrays[0])}")
    return arrays


@register("HDF5Output")
class HDF5Output(Layer):
    """Writes its bottoms to the data sets `data` and `label` of an HDF5 file, with four axes each as Caffe does.

    Bottoms: two blobs of up to four axes and the same number of rows. As in Caffe one forward pass is all that a file
    takes; the file is complete when the pass ends, and replaces any earlier one only then.
    """

    bottoms = (2, 2)
    tops = (0, 0)
    constants = Layer.ALL_BOTTOMS

    def setup(self, bottom_shapes: list[Shape]) -> None:
        self.file_name: str = self.param.hdf5_output_param.file_name
        if not self.file_name:
            raise LayerError("file_name is not given")
        self._written = False

    def top_shapes(self, bottom_shapes: list[Shape]) -> list[Shape]:
        data, label = bottom_shapes
        if max(len(data), len(label)) > 4:
            raise LayerError("the bottoms have more than four axes")
        if (data + (1,))[0] != (label + (1,))[0]:
            raise LayerError(f"{(data + (1,))[0]} rows of data, {(label + (1,))[0]} of labels")
        return []

    @eager
    def forward(self, data: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self._written:
            raise LayerError(f"{self.file_name} holds the first pass already; HDF5Output writes one")
        try:
            with replacing(self.file_name) as temporary, h5py.File(temporary, "w", libver="earliest") as file:
                for name, values in (("data", data), ("label", label)):
                    array = to_array(values)
                    file.create_dataset(name, data=array.reshape(array.shape + (1,) * (4 - array.ndim)))
        except WeightsError as error:
            raise LayerError(str(error)) from error
        self._written = True
        return ()
