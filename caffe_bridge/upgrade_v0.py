"""Nets in the format of 2013, where `layers { layer { type: "conv" num_output: 96 ... } }` wrapped one flat message."""

from __future__ import annotations

import logging
from typing import Any

from caffe_bridge import schema
from caffe_bridge.errors import PrototxtError
from caffe_bridge.text_format import near

_TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}

# Where each field goes: the layer types that have it -> (message, field) of V1LayerParameter.
_CONV, _IP, _POOL = "convolution_param", "inner_product_param", "pooling_param"
_DATA, _IMAGES, _WINDOW = "data_param", "image_data_param", "window_data_param"
_FIELDS: dict[str, dict[str, tuple[str, str]]] = {
    "num_output": {"conv": (_CONV, "num_output"), "innerproduct": (_IP, "num_output")},
    "biasterm": {"conv": (_CONV, "bias_term"), "innerproduct": (_IP, "bias_term")},
    "weight_filler": {"conv": (_CONV, "weight_filler"), "innerproduct": (_IP, "weight_filler")},
    "bias_filler": {"conv": (_CONV, "bias_filler"), "innerproduct": (_IP, "bias_filler")},
    "pad": {"conv": (_CONV, "pad"), "pool": (_POOL, "pad")},
    "kernelsize": {"conv": (_CONV, "kernel_size"), "pool": (_POOL, "kernel_size")},
    "group": {"conv": (_CONV, "group")},
    "stride": {"conv": (_CONV, "stride"), "pool": (_POOL, "stride")},
    "pool": {"pool": (_POOL, "pool")},
    "dropout_ratio": {"dropout": ("dropout_param", "dropout_ratio")},
    "local_size": {"lrn": ("lrn_param", "local_size")},
    "alpha": {"lrn": ("lrn_param", "alpha")},
    "beta": {"lrn": ("lrn_param", "beta")},
    "k": {"lrn": ("lrn_param", "k")},
    "source": {
        "data": (_DATA, "source"),
        "hdf5_data": ("hdf5_data_param", "source"),
        "images": (_IMAGES, "source"),
        "window_data": (_WINDOW, "source"),
        "infogain_loss": ("infogain_loss_param", "source"),
    },
    "batchsize": {
        "data": (_DATA, "batch_size"),
        "hdf5_data": ("hdf5_data_param", "batch_size"),
        "images": (_IMAGES, "batch_size"),
        "window_data": (_WINDOW, "batch_size"),
    },
    "rand_skip": {"data": (_DATA, "rand_skip"), "images": (_IMAGES, "rand_skip")},
    "shuffle_images": {"images": (_IMAGES, "shuffle")},
    "new_height": {"images": (_IMAGES, "new_height")},
    "new_width": {"images": (_IMAGES, "new_width")},
    "concat_dim": {"concat": ("concat_param", "concat_dim")},
    "det_fg_threshold": {"window_data": (_WINDOW, "fg_threshold")},
    "det_bg_threshold": {"window_data": (_WINDOW, "bg_threshold")},
    "det_fg_fraction": {"window_data": (_WINDOW, "fg_fraction")},
    "det_context_pad": {"window_data": (_WINDOW, "context_pad")},
    "det_crop_mode": {"window_data": (_WINDOW, "crop_mode")},
}
_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}
_UNCHANGED = ("name", "blobs", "blobs_lr", "weight_decay", "hdf5_output_param")


def upgrade_v0_layers(net: Any, path: str | None, lines: list[int | None]) -> None:
    """Turn V0 entries of `net.layers` into V1 ones; `lines`, parallel to them, follows.

    A field that its layer's type does not have is dropped with a warning, as in Caffe.

    Raises PrototxtError for an unknown type, V0 and V1 entries in one net, and padding layers Caffe cannot fold.
    """
    for layer, line in zip(net.layers, lines, strict=True):
        if not layer.HasField("layer"):
            raise PrototxtError(f"layer '{layer.name}' is in another format than its V0 neighbours", path, line)
    _fold_padding(net, path, lines)
    for layer, line in zip(net.layers, lines, strict=True):
        layer.CopyFrom(_upgraded(layer, path, line))


def _fold_padding(net: Any, path: str | None, lines: list[int | None]) -> None:
    """Move the pad of each "padding" layer into the convolution or pooling that reads it."""
    padding: dict[str, Any] = {}
    made = set(net.input)
    for layer, line in zip(net.layers, lines, strict=True):
        v0 = layer.layer
        for index, bottom in enumerate(layer.bottom):
            if bottom not in made:
                hint = near(bottom, made)
                raise PrototxtError(
                    f"bottom '{bottom}' of layer '{v0.name}' is made by no earlier layer{hint}", path, line
                )
            source = padding.get(bottom)
            if source is None:
                continue
            if v0.type not in ("conv", "pool") or len(layer.bottom) != 1:
                problem = (
                    f"padding layer '{source.layer.name}' can only be followed by a conv or pool layer with one bottom"
                )
                raise PrototxtError(f"{problem}, not by '{v0.name}' ({v0.type})", path, line)
            v0.pad = source.layer.pad
            layer.bottom[index] = source.bottom[0]
        if v0.type == "padding" and (len(layer.bottom), len(layer.top)) != (1, 1):
            raise PrototxtError(f"padding layer '{v0.name}' must have one bottom and one top", path, line)
        for top in layer.top:
            made.add(top)
            padding.pop(top, None)
            if v0.type == "padding":
                padding[top] = layer
    kept = [index for index, layer in enumerate(net.layers) if layer.layer.type != "padding"]
    lines[:] = [lines[index] for index in kept]
    for index in sorted(set(range(len(net.layers))) - set(kept), reverse=True):
        del net.layers[index]


def _upgraded(layer: Any, path: str | None, line: int | None) -> Any:
    v0 = layer.layer
    v1 = schema.V1LayerParameter(bottom=layer.bottom, top=layer.top)
    if v0.type not in _TYPES:
        raise PrototxtError(f"layer '{v0.name}' has unknown type '{v0.type}'{near(v0.type, _TYPES)}", path, line)
    v1.type = schema.V1LayerParameter.LayerType.Value(_TYPES[v0.type])
    for field, value in v0.ListFields():
        name = field.name
        if name in _UNCHANGED:
            _put(v1, name, value)
        elif name in _TRANSFORM:
            _put(v1.transform_param, _TRANSFORM[name], value)
        elif v0.type in _FIELDS.get(name, {}):
            message, target = _FIELDS[name][v0.type]
            _put(getattr(v1, message), target, value)
        elif name != "type":
            problem = f"layer '{v0.name}' ({v0.type}) has no use for {name}, which is ignored"
            logging.getLogger("caffe_bridge").warning("%s", PrototxtError(problem, path, line))
    return v1


def _put(message: Any, name: str, value: Any) -> None:
    """Set a field, append to a repeated one, copy a message."""
    target = getattr(message, name)
    if hasattr(target, "CopyFrom"):
        target.CopyFrom(value)
    elif hasattr(target, "extend"):
        target.extend(value if hasattr(value, "extend") else [value])
    else:
        setattr(message, name, value)
