"""An exported model against the net it was made from."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from caffe_bridge.errors import CaffeError
from caffe_bridge.net import Net

TOLERANCE = 1e-4


def can_verify() -> bool:
    """Whether onnxruntime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def random_inputs(net: Net, seed: int = 0) -> dict[str, np.ndarray]:
    """For each input of the net a normal random array of its shape, or indices where that is what it is read as."""
    generator = np.random.default_rng(seed)
    inputs = {name: generator.standard_normal(net.graph.shapes[name], np.float32) for name in net.inputs}
    for node in net.graph.nodes:
        index = {"Embed": 0, "BatchReindex": 1}.get(node.type)
        if index is None or node.bottoms[index] not in inputs:
            continue
        rows = net.params[node.name][0].shape if node.type == "Embed" else net.graph.shapes[node.bottoms[0]]
        name = node.bottoms[index]
        inputs[name] = generator.integers(0, rows[0], inputs[name].shape).astype(np.float32)
    return inputs


def errors(net: Net, path: str | Path, inputs: Mapping[str, np.ndarray] | None = None) -> dict[str, float]:
    """For each output, max |ONNX - net| / max(1, max |net|) on given or random inputs; infinity where shapes differ.

    Raises CaffeError when onnxruntime is missing or refuses the model.
    """
    if not can_verify():
        raise CaffeError("verifying needs onnxruntime: pip install caffe-bridge[onnxruntime], or give --no-verify")
    import onnxruntime

    inputs = random_inputs(net) if inputs is None else inputs
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found = session.run(None, dict(inputs))
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise CaffeError(f"{path}: onnxruntime cannot run it: {str(error).splitlines()[0]}") from error
    with torch.no_grad():
        wanted = net(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return {blob: difference(got, wanted[blob].numpy()) for blob, got in zip(net.outputs, found)}


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
