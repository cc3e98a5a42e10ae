"""Caffe's own files: .caffemodel, .caffemodel.h5 and the prototxt."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from caffe_bridge import schema, text_format, weights
from caffe_bridge.convert.model import Blobs, Model
from caffe_bridge.errors import CaffeError, PrototxtError
from caffe_bridge.upgrade import upgrade_net
from caffe_bridge.weights.files import replacing

# Axes of a blob by layer type, for files that pad every shape to four; other blobs have one axis, or as many as needed.
_AXES = {"Convolution": 4, "Deconvolution": 4, "InnerProduct": 2, "Embed": 2}


def read_weights(path: str) -> Model:
    """A .caffemodel of any generation or Caffe's HDF5; shapes of four numbers become those of current Caffe."""
    with weights.read(path) as source:
        layers: dict[str, Blobs] = {}
        for layer, arrays in source.layers.items():
            axes = _AXES.get(source.types.get(layer, ""), 1)
            layers[layer] = [
                _unpadded(array, axes if i == 0 else 1)
                if array is not None and blob is not None and blob.legacy
                else array
                for i, (array, blob) in enumerate(zip(arrays, source.blobs[layer]))
            ]
        definition = source.definition()
    return Model(path, layers, definition)


def _unpadded(array: np.ndarray, axes: int) -> np.ndarray:
    ones = next((i for i, dim in enumerate(array.shape) if dim != 1), array.ndim)
    return array.reshape(array.shape[min(ones, array.ndim - axes) :])


def read_prototxt(path: str) -> Model:
    """A net's definition, upgraded, with the layers of every phase."""
    net = schema.NetParameter()
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise PrototxtError(f"cannot be read: {error.strerror}", path) from error
    upgrade_net(net, path, text_format.parse(text, net, path))
    return Model(path, definition=net)


def write_prototxt(path: str, model: Model) -> None:
    """The definition as text. Raises CaffeError where there is none."""
    if model.definition is None:
        raise CaffeError(f"{model.path}: holds no definition to write as {path}")
    with replacing(path) as temporary:
        Path(temporary).write_text(text_format.format(model.definition), encoding="utf-8")


def write_caffemodel(path: str, model: Model) -> None:
    """A .caffemodel that Caffe and OpenCV read; shared blobs are written with every layer, as Caffe does."""
    weights.save_net(path, model.defined(), model.completed(), kind="caffemodel")


def write_hdf5(path: str, model: Model) -> None:
    """Caffe's HDF5 layout; shared blobs are written once, with their owner."""
    weights.save_net(path, model.defined(), model.completed(), model.sharing(), kind="hdf5")
