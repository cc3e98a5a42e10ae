"""An exported model against the net it was made from."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caffe_bridge.convert.onnx_export.registry import shape_rule, type_of
from caffe_bridge.errors import CaffeError, first_line
from caffe_bridge.graph import Node
from caffe_bridge.net import Net

TOLERANCE = 1e-4
MATCHED = 0.99
"""The part of the rows that must be found again where a layer chooses among boxes."""

_IMAGE_INFO = {
    "Proposal": 2,
    "pylayer.proposal_layer.ProposalLayer": 2,
    "rpn.proposal_layer.ProposalLayer": 2,
    "pylayer.stage_bridge_layer.StageBridgeLayer": 3,
}


def can_verify() -> bool:
    """Whether onnxruntime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def random_inputs(net: Net, seed: int = 0) -> dict[str, np.ndarray]:
    """For each input of the net a normal random array of its shape, or indices, RoIs or im_info where it is that."""
    generator = np.random.default_rng(seed)
    shapes = net.graph.shapes
    inputs = {name: generator.standard_normal(shapes[name], np.float32) for name in net.inputs}
    height, width = next((shapes[name][2:] for name in net.inputs if len(shapes[name]) == 4), (1, 1))
    for node in net.graph.nodes:
        index = {"Embed": 0, "BatchReindex": 1}.get(node.type)
        if index is not None and node.bottoms[index] in inputs:
            rows = net.params[node.name][0].shape if node.type == "Embed" else shapes[node.bottoms[0]]
            name = node.bottoms[index]
            inputs[name] = generator.integers(0, rows[0], inputs[name].shape).astype(np.float32)
        index = _IMAGE_INFO.get(type_of(node))
        if index is not None and node.bottoms[index] in inputs:
            info = inputs[node.bottoms[index]]
            info[...] = np.resize([height, width, 1, 1], info.shape[-1])
        if node.type in ("ROIPooling", "ROIWarping", "PSROIPooling") and node.bottoms[1] in inputs:
            rois = inputs[node.bottoms[1]]
            corners = np.sort(generator.random((rois.shape[0], 2, 2)), axis=1) * [width, height]
            rois.reshape(-1, 5)[...] = np.concatenate([np.zeros((len(rois), 1)), corners.reshape(-1, 4)], 1)
    return inputs


def errors(net: Net, path: str | Path, inputs: Mapping[str, np.ndarray] | None = None) -> dict[str, float]:
    """For each output, max |ONNX - net| / max(1, max |net|) on given or random inputs; infinity where shapes differ.

    Where layers choose among boxes, rounding before them may change the order or the choice. Their tops are therefore
    compared for the same bottoms, row by nearest row, and what follows for the same chosen boxes.

    Raises CaffeError when onnxruntime is missing or refuses the model.
    """
    if not can_verify():
        raise CaffeError("verifying needs onnxruntime: pip install caffe-bridge[onnxruntime], or give --no-verify")
    inputs = random_inputs(net) if inputs is None else inputs
    choosing = [node for node in net.graph.nodes if shape_rule(type_of(node)) is not None]
    watched = list(dict.fromkeys(blob for node in choosing for blob in (*node.bottoms, *node.tops)))
    found = run_model(path, inputs, [*net.outputs, *watched])
    wanted = _run_net(net, inputs, choosing, {blob: torch.from_numpy(found[blob]) for blob in watched})
    chosen = {blob for node in choosing for blob in node.tops}
    return {
        blob: (rows_difference if blob in chosen else difference)(found[blob], wanted[blob].numpy())
        for blob in dict.fromkeys([*net.outputs, *(blob for blob in watched if blob in chosen)])
    }


def run_model(path: str | Path, inputs: Mapping[str, np.ndarray], blobs: Sequence[str]) -> dict[str, np.ndarray]:
    """What onnxruntime computes for blobs: the outputs of the net, in its order, and after them any others."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        model = onnx.load(str(path), load_external_data=False)
        names = [output.name for output in model.graph.output]
        inner = {info.name: info for info in model.graph.value_info}
        model.graph.output.extend(inner[blob] for blob in dict.fromkeys(blobs) if blob in inner)
        beside = os.path.dirname(os.path.realpath(path))
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", beside)
        content = model.SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        values = dict(zip((value.name for value in session.get_outputs()), session.run(None, dict(inputs))))
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise CaffeError(f"{path}: onnxruntime cannot run it: {first_line(error)}") from error
    # An output may have another name than its blob, but comes in the same place.
    return {**inputs, **values, **dict(zip(blobs, (values[name] for name in names)))}


@torch.no_grad()
def _run_net(
    net: Net, inputs: Mapping[str, np.ndarray], choosing: Sequence[Node], given: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The net's blobs; the layers in `choosing` read the given values, and what follows them reads the given tops."""
    values = {name: torch.from_numpy(np.asarray(array)) for name, array in inputs.items()}
    if not choosing:
        return net(**values)
    made = {}
    for node in net.graph.nodes:
        if node.type == "Input":
            continue
        read: dict[str, Any] = {**values, **given} if node in choosing else values
        bottoms = [read[blob] for blob in node.bottoms]
        tops = node.layer(*bottoms)
        tops = dict(zip(node.tops, (tops,) if isinstance(tops, torch.Tensor) else tops))
        made.update(tops)
        values.update(tops)
        if node in choosing:
            values.update({blob: given[blob] for blob in node.tops})
    return made


def difference(got: np.ndarray, wanted: np.ndarray) -> float:
    """max |got - wanted| / max(1, max |wanted|); infinity where shapes, infinities or not-a-numbers differ."""
    if got.shape != wanted.shape:
        return float("inf")
    scale = max(1.0, np.abs(wanted[np.isfinite(wanted)], dtype=np.float64).max(initial=0))
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    got, wanted = got[~same].astype(np.float64), wanted[~same].astype(np.float64)
    if not got.size:
        return 0.0
    if not (np.isfinite(got).all() and np.isfinite(wanted).all()):
        return float("inf")
    return float(np.abs(got - wanted).max() / scale)


def rows_difference(got: np.ndarray, wanted: np.ndarray) -> float:
    """As `difference`; else of each row from the nearest, infinity if fewer than MATCHED of them have a near one."""
    plain = difference(got, wanted)
    rows, others = (values.reshape(-1, wanted.shape[-1]).astype(np.float64) for values in (got, wanted))
    if plain <= TOLERANCE or got.shape[-1] != wanted.shape[-1] or not len(rows) or not len(others):
        return plain
    scale = max(1.0, np.abs(others).max())
    nearest = np.array([np.abs(rows - other).max(1).min() for other in others]) / scale
    near = nearest <= TOLERANCE
    enough = near.mean() >= MATCHED and abs(len(rows) - len(others)) <= (1 - MATCHED) * len(others)
    return float(nearest[near].max()) if enough else float("inf")
