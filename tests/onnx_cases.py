"""Every recorded case of a layer that has an ONNX export, as a net with its weights, its inputs and its settings.

Layers of which nothing was recorded have a case that is made up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from input_layers import input_layers
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
# Layers without a recorded case: what stands in the layer, and the shapes of its bottoms.
_MADE = {
    "HardSwish": ('type: "HardSwish" top: "y"', [(2, 3, 4, 5)]),
    "Mish": ('type: "Mish" top: "y"', [(2, 3, 4, 5)]),
    "LSTMUnit": ('type: "LSTMUnit" top: "c" top: "h"', [(1, 3, 4), (1, 3, 16), (1, 3)]),
    "Proposal": (
        'type: "Proposal" top: "rois" top: "scores" proposal_param { ratio: 0.5 ratio: 1 scale: 4 scale: 9 '
        "pre_nms_topn: 90 post_nms_topn: 20 min_size: 12 }",
        [(1, 8, 9, 12), (1, 16, 9, 12), (1, 3)],
    ),
    "transform.torch_image_transform_layer.TorchImageTransformLayer": (
        'type: "Python" top: "y" python_param { module: "transform.torch_image_transform_layer" '
        'layer: "TorchImageTransformLayer" }',
        [(2, 3, 4, 5)],
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
    return [*found, *(f"made/{type_}" for type_ in _MADE)]


def _files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((REFERENCE / folder).glob("*.npz"))


def _is_exported(path: Path) -> bool:
    return set(_layer_types(str(np.load(path)["prototxt"]))) <= set(exported_types())


def _layer_types(text: str) -> list[str]:
    param = schema.NetParameter()
    text_format.parse(text, param)
    return sorted({layer.type for layer in param.layer} - {"Input"})


def _subjects(types: list[str], stem: str) -> list[str]:
    """The layer types a case is about: the one that it is named after, or all."""
    named = [type_ for type_ in types if stem.startswith(type_)]
    return [max(named, key=len)] if named else types


def load(name: str) -> Case:
    """One case."""
    folder, stem = name.split("/")
    if folder == "made":
        return _made_case(name, stem)
    data = dict(np.load(REFERENCE / f"{name}.npz"))
    if folder in ("layers", "forks"):
        text = str(data["prototxt"])
        inputs = {key[3:]: array.astype(np.float32) for key, array in data.items() if key.startswith("in/")}
        parameters = {}
        for key, array in data.items():
            if key.startswith("param/"):
                layer, index = key[len("param/") :].rsplit("/", 1)
                parameters[layer, int(index)] = array
        return Case(name, _subjects(_layer_types(text), stem), text, inputs, parameters)
    return _python_case(name, folder, stem.split("__")[0], data)


def _made_case(name: str, type_: str) -> Case:
    text, shapes = _MADE[type_]
    generator = np.random.default_rng(0)
    inputs = {f"x{i}": generator.standard_normal(shape, np.float32) for i, shape in enumerate(shapes)}
    if type_ == "Proposal":  # scores without ties, and im_info
        scores = generator.permutation(np.linspace(0.01, 0.99, inputs["x0"].size, dtype=np.float32))
        inputs |= {"x0": scores.reshape(inputs["x0"].shape), "x2": np.float32([[140, 188, 1.3]])}
        inputs["x1"] *= 0.4
    bottoms = input_layers(**{blob: array.shape for blob, array in inputs.items()})
    read = " ".join(f'bottom: "{blob}"' for blob in inputs)
    return Case(name, [type_], f'{bottoms}layer {{ name: "layer" {read} {text} }}', inputs)


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
