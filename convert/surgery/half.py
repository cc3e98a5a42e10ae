"""Weights in half precision."""

from __future__ import annotations

import numpy as np

from caffe_bridge.convert.model import Model
from caffe_bridge.convert.surgery.editing import copy_of, values
from caffe_bridge.errors import CaffeError

_STATISTICS = ("BatchNorm", "BN")
_LARGEST = float(np.finfo(np.float16).max)


def half_weights(model: Model) -> Model:
    """The model with float16 blobs, those of BatchNorm and BN excepted, whose variances may leave its range.

    Formats without half precision (.caffemodel, and Caffe's HDF5) store the rounded values in single precision.

    Raises CaffeError naming the layer with a value beyond 65504.
    """
    model = copy_of(model)
    types = {layer.name: layer.type for layer in model.definition.layer}
    for name, blobs in model.layers.items():
        if types.get(name) in _STATISTICS:
            continue
        for i, blob in enumerate(blobs):
            if blob is None:
                continue
            array = values(blob)
            if array.size and np.abs(array).max() > _LARGEST:
                raise CaffeError(
                    f"{model.path}: layer '{name}', blob {i}, holds {np.abs(array).max():g}, and half precision ends "
                    f"at {_LARGEST:g}"
                )
            blobs[i] = array.astype(np.float16)
    return model
