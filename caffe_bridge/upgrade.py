"""Bring nets and solvers in Caffe's older formats to the current one, as Caffe does on reading a file.

The steps, each taken only where the old format is found: V0 layers, data transformation fields inside data
parameters, V1 layers (`layers`, types as enums), input fields, BatchNorm with learning rates; for solvers the type.
They serve definitions and binary files alike: parameter blobs come along.
"""

from __future__ import annotations

import logging
from typing import Any

from caffe_bridge import schema
from caffe_bridge.errors import PrototxtError
from caffe_bridge.text_format import Lines
from caffe_bridge.upgrade_v0 import upgrade_v0_layers

_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BN": "BN",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "ELTWISE": "Eltwise",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "RELU6": "ReLU6",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "SLICE": "Slice",
    "TANH": "TanH",
    "WINDOW_DATA": "WindowData",
    "THRESHOLD": "Threshold",
}
_PARAM_SPEC = {"param": "name", "blob_share_mode": "share_mode", "blobs_lr": "lr_mult", "weight_decay": "decay_mult"}
_DATA_PARAMS = {"DATA": "data_param", "IMAGE_DATA": "image_data_param", "WINDOW_DATA": "window_data_param"}
_TRANSFORM = ("scale", "mean_file", "crop_size", "mirror")
_SOLVER_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}


def upgrade_net(net: Any, path: str | None = None, lines: Lines | None = None) -> list[str]:
    """Bring a NetParameter up to date in place. Returns what was upgraded, in words, also logged at level INFO.

    `lines` as `text_format.parse` gave them are kept in step: afterwards `lines["layer"]` is parallel to `net.layer`.

    Raises PrototxtError where Caffe gives up: `layer` mixed with `layers`, unknown V0 types, inputs without shapes
    enough, padding layers it cannot fold.
    """
    lines = {} if lines is None else lines
    done = []
    if net.layers:
        if net.layer:
            problem = "both 'layer' and 'layers' are used; write every layer as layer { type: \"Name\" ... }"
            raise PrototxtError(problem, path, lines.get("layers", [None])[0])
        old_lines: list[int | None] = list(lines.pop("layers", [])) or [None] * len(net.layers)
        if any(layer.HasField("layer") for layer in net.layers):
            upgrade_v0_layers(net, path, old_lines)
            done.append("V0 layers")
        if _upgrade_transformations(net):
            done.append("data transformation fields")
        for old in net.layers:
            _upgrade_v1_layer(old, net.layer.add())
        del net.layers[:]
        lines["layer"] = old_lines
        done.append("V1 layers")
    if net.input:
        _upgrade_inputs(net, path, lines)
        done.append("input fields")
    if _upgrade_batch_norm(net):
        done.append("BatchNorm parameters")
    return _logged(done, path)


def upgrade_solver(solver: Any, path: str | None = None) -> list[str]:
    """Bring a SolverParameter up to date in place; its nets are left alone. Returns what was upgraded, in words.

    Raises PrototxtError if the type is given in the old and the new way.
    """
    if not solver.HasField("solver_type"):
        return []
    if solver.HasField("type"):
        raise PrototxtError("both solver_type and type are set; keep type", path)
    solver.type = _SOLVER_TYPES[solver.SolverType.Name(solver.solver_type)]
    solver.ClearField("solver_type")
    return _logged(["solver_type"], path)


def _logged(done: list[str], path: str | None) -> list[str]:
    if done:
        logging.getLogger("caffe_bridge").info("%supgraded %s", f"{path}: " if path else "", ", ".join(done))
    return done


def _upgrade_transformations(net: Any) -> bool:
    changed = False
    for layer in net.layers:
        name = _DATA_PARAMS.get(layer.LayerType.Name(layer.type))
        if name is None or not layer.HasField(name):
            continue
        data = getattr(layer, name)
        for field in _TRANSFORM:
            if data.HasField(field):
                setattr(layer.transform_param, field, getattr(data, field))
                data.ClearField(field)
                changed = True
    return changed


def _upgrade_v1_layer(old: Any, new: Any) -> None:
    """Most fields keep their names; four parallel lists become one list of ParamSpec."""
    new.type = _TYPES[old.LayerType.Name(old.type)]
    for field, value in old.ListFields():
        if field.name == "type":
            continue
        if field.name in _PARAM_SPEC:
            while len(new.param) < len(value):
                new.param.add()
            for spec, item in zip(new.param, value, strict=False):
                setattr(spec, _PARAM_SPEC[field.name], item)
        elif hasattr(value, "extend"):
            getattr(new, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(new, field.name).CopyFrom(value)
        else:
            setattr(new, field.name, value)


def _upgrade_inputs(net: Any, path: str | None, lines: Lines) -> None:
    """Make one Input layer, the first, of the input fields. Inputs without any shape are dropped, as in Caffe."""
    count = len(net.input)
    line = lines.get("input", [None])[0]
    if net.input_shape and len(net.input_shape) < count:
        raise PrototxtError(f"{count} inputs need {count} input_shape, got {len(net.input_shape)}", path, line)
    if not net.input_shape and net.input_dim and len(net.input_dim) < 4 * count:
        raise PrototxtError(f"{count} inputs need {4 * count} input_dim, got {len(net.input_dim)}", path, line)
    if net.input_shape or net.input_dim:
        layer = schema.LayerParameter(name="input", type="Input", top=net.input)
        for index in range(count):
            dims = net.input_shape[index].dim if net.input_shape else net.input_dim[4 * index : 4 * index + 4]
            layer.input_param.shape.add(dim=dims)
        net.layer.insert(0, layer)
        lines.setdefault("layer", [None] * (len(net.layer) - 1)).insert(0, line)
    else:
        names = ", ".join(net.input)
        logging.getLogger("caffe_bridge").warning(
            "%sinputs without input_shape or input_dim are dropped: %s", f"{path}: " if path else "", names
        )
    for name in ("input", "input_shape", "input_dim"):
        net.ClearField(name)


def _upgrade_batch_norm(net: Any) -> bool:
    """The three blobs of BatchNorm are statistics: never learned, whatever old files say."""
    changed = False
    for layer in net.layer:
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            for spec in layer.param:
                changed = changed or bool(spec.lr_mult or spec.decay_mult)
                spec.lr_mult = spec.decay_mult = 0
    return changed
