"""Every recorded case of a layer that has an ONNX export, as a net with its weights, its inputs and its settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from layer_cases import REFERENCE

import caffe_bridge
from caffe_bridge import schema, text_format
from caffe_bridge.config import cfg, use
from caffe_bridge.convert.onnx_export import exported_types

# What the layers of MNC and py-faster-rcnn take and make: the type of a Python layer, or a layer's parameter message;
# the recording's names of its bottoms, and its tops.
_LAYERS = {
    ("mnc", "roi_pooling"): ("ROIPooling", "roi_pooling_param", ["feat", "rois"], ["top"]),
    ("mnc", "roi_warping"): ("ROIWarping", "roi_warping_param", ["feat", "rois"], ["top"]),
    ("mnc", "mask_resize"): ("MaskResize", "mask_resize_param", ["mask"], ["top"]),
    ("mnc", "mask_pooling"): ("MaskPooling", None, ["feat", "mask"], ["top"]),
    ("mnc", "mask_layer"): ("pylayer.mask_layer.MaskLayer", None, ["mask_pred"], ["mask_proposal"]),
    ("mnc", "stage_bridge"): (
        "pylayer.stage_bridge_layer.StageBridgeLayer",
        None,
        ["rois", "bbox_pred", "scores", "im_info"],
        ["top"],
    ),
    ("mnc", "proposal"): (
        "pylayer.proposal_layer.ProposalLayer",
        None,
        ["prob", "deltas", "im_info"],
        ["rois", "proposal_index"],
    ),
    ("pyfrcnn", "proposal"): (
        "rpn.proposal_layer.ProposalLayer",
        None,
        ["prob", "deltas", "im_info"],
        ["rois", "scores"],
    ),
}
# At test time the mask layer and the stage bridge take fewer bottoms, which only these cases record.
_TEST_ONLY = {"mask_layer", "stage_bridge"}


@dataclass
class Case:
    """A recorded case.

    Attributes:
        name: folder and file, such as "layers/ReLU_0".
        types: the layer types it is about, as `exported_types` names them.
        text: the prototxt.
        inputs: arrays by blob.
        parameters: arrays by layer and number.
        project, settings: whose defaults `cfg` has, and what is changed.
    """

    name: str
    types: list[str]
    text: str
    inputs: dict[str, np.ndarray]
    parameters: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    project: str = "mnc"
    settings: dict[str, Any] = field(default_factory=dict)

    def net(self) -> caffe_bridge.Net:
        """The net, for TEST."""
        net = caffe_bridge.Net(self.text, phase="TEST")
        with torch.no_grad():
            for (layer, index), array in self.parameters.items():
                net.params[layer][index].copy_(torch.from_numpy(array))
        return net

    @contextmanager
    def configured(self) -> Iterator[None]:
        """`cfg` as the case had it; MNC's defaults afterwards."""
        use(self.project)
        try:
            for key, value in self.settings.items():
                section, _, name = key.rpartition(".")
                (cfg[section] if section else cfg)[name] = value
            yield
        finally:
            use("mnc")


def names() -> list[str]:
    """The cases whose layers are all exported."""
    found = [f"{path.parent.name}/{path.stem}" for path in _files("layers", "forks") if _is_exported(path)]
    for folder, operation in _LAYERS:
        pattern = f"{operation}__test*.npz" if operation in _TEST_ONLY else f"{operation}__*.npz"
        found += [f"{folder}/{path.stem}" for path in sorted((REFERENCE / folder).glob(pattern))]
    return found


def _files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((REFERENCE / folder).glob("*.npz"))


def _is_exported(path: Path) -> bool:
    return set(_layer_types(str(np.load(path)["prototxt"]))) <= set(exported_types())


def _layer_types(text: str) -> list[str]:
    param = schema.NetParameter()
    text_format.parse(text, param)
    return sorted({layer.type for layer in param.layer} - {"Input"})


def load(name: str) -> Case:
    """One case."""
    data = dict(np.load(REFERENCE / f"{name}.npz"))
    folder, stem = name.split("/")
    if folder in ("layers", "forks"):
        text = str(data["prototxt"])
        inputs = {key[3:]: array.astype(np.float32) for key, array in data.items() if key.startswith("in/")}
        parameters = {}
        for key, array in data.items():
            if key.startswith("param/"):
                layer, index = key[len("param/") :].rsplit("/", 1)
                parameters[layer, int(index)] = array
        return Case(name, _layer_types(text), text, inputs, parameters)
    return _python_case(name, folder, stem.split("__")[0], data)


def _python_case(name: str, folder: str, operation: str, data: dict[str, np.ndarray]) -> Case:
    type_, message, bottoms, tops = _LAYERS[folder, operation]
    given = json.loads(str(data["param_json"]))
    inputs = {blob: data[f"in_{blob}"].astype(np.float32) for blob in bottoms}
    settings = dict(given.get("cfg", {}))
    if given.get("phase") == "TRAIN":  # exported nets are for TEST; its settings become those of TRAIN
        use("py_faster_rcnn" if folder == "pyfrcnn" else "mnc")
        settings |= {f"TEST.{key}": value for key, value in cfg.TRAIN.items() if key in cfg.TEST}
        settings |= {f"TEST.{key[6:]}": value for key, value in settings.items() if key.startswith("TRAIN.")}
        use("mnc")
    layer = schema.LayerParameter(name="layer", type=type_, bottom=bottoms, top=tops[: given.get("tops", 2)])
    if "." in type_:
        layer.type = "Python"
        layer.python_param.module, _, layer.python_param.layer = type_.rpartition(".")
        layer.python_param.param_str = json.dumps(given.get("param", {}))
    elif message:
        part = getattr(layer, message)
        for key in part.DESCRIPTOR.fields_by_name:
            if key in given:
                setattr(part, key, given[key])
    net = schema.NetParameter()
    for blob in bottoms:
        entry = net.layer.add(name=blob, type="Input", top=[blob])
        entry.input_param.shape.add(dim=inputs[blob].shape)
    net.layer.append(layer)
    project = "py_faster_rcnn" if folder == "pyfrcnn" else "mnc"
    return Case(name, [type_], text_format.format(net), inputs, project=project, settings=settings)
