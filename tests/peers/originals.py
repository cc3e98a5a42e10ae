"""The published detectors, exported, in onnxruntime against what the original programs computed (reference/e2e).

python tests/peers/originals.py [NET ...]     mnc5 needs 4 GB of memory

Weights and inputs are those of the recordings (`caffe_bridge.recipe`). Exit status 1 where a blob differs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from zoo import PROTOTXT

import caffe_bridge
from caffe_bridge import recipe
from caffe_bridge.convert.onnx_export import export_onnx
from caffe_bridge.convert.onnx_export.verification import run_model

RECORDINGS = Path(__file__).parents[1] / "reference" / "e2e"


def compare(name: str) -> bool:
    """Whether every recorded blob of a net agrees."""
    net = caffe_bridge.Net(PROTOTXT / name / "test.prototxt")
    recipe.fill(net)
    with np.load(RECORDINGS / f"{name}_384x512.npz") as data:
        height, width = data["hw"].tolist()
        recorded = {blob: data[blob] for blob in data.files if blob in net.graph.shapes}
    inputs = {blob: tensor.numpy() for blob, tensor in recipe.inputs(height, width).items()}
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(net, f"{folder}/{name}.onnx")
        blobs = [*net.outputs, *recorded]
        del net
        got = run_model(f"{folder}/{name}.onnx", inputs, blobs)
    verdicts = list(recipe.compare(got, recorded))
    for verdict in verdicts:
        print(f"{name} {verdict.blob:24} {'ok' if verdict.passed else 'WRONG':6} {verdict.error:.1e}  {verdict.text}")
    return all(verdict.passed for verdict in verdicts)


if __name__ == "__main__":
    agree = [compare(name) for name in sys.argv[1:] or ("faster_rcnn", "mnc5")]
    sys.exit(int(not all(agree)))
