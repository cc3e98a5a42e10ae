"""How other programs' results are compared; the comparisons themselves are `make peers`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import caffe_bridge
from caffe_bridge.convert.onnx_export import export_onnx

FOLDER = Path(__file__).parent / "peers"


@pytest.fixture(scope="module")
def peer():
    sys.path.append(str(FOLDER))
    try:
        import peer
    finally:
        sys.path.remove(str(FOLDER))
    return peer


def run(tmp_path: Path, *jobs: dict) -> dict[str, dict]:
    """The results of jobs in this environment's OpenCV."""
    paths = [tmp_path / "jobs.json", tmp_path / "results.json"]
    paths[0].write_text(json.dumps(jobs))
    subprocess.run([sys.executable, str(FOLDER / "peer.py"), *map(str, paths)], check=True, timeout=100)
    return json.loads(paths[1].read_text())["results"]


class TestPeer:
    def test_both_formats(self, tmp_path):
        path = Path(caffe_bridge.__file__).parents[1] / "prototxt" / "lenet" / "deploy.prototxt"
        net = caffe_bridge.Net(path)
        data = np.random.default_rng(0).standard_normal(net.graph.shapes["data"], np.float32)
        with torch.no_grad():
            outputs = net(data=torch.from_numpy(data), blobs=["conv2"])
        np.savez(tmp_path / "a.npz", **{"in/data": data}, **{f"out/{name}": v.numpy() for name, v in outputs.items()})
        net.save(tmp_path / "a.caffemodel")
        export_onnx(net, tmp_path / "a.onnx")
        common, onnx = {"data": str(tmp_path / "a.npz")}, {"format": "onnx", "outputs": {"prob": "prob"}}
        caffe = {"files": [str(path), str(tmp_path / "a.caffemodel")], "format": "caffe"}
        results = run(
            tmp_path,
            {
                "name": "onnx",
                "format": "onnx",
                "files": [str(tmp_path / "a.onnx")],
                "outputs": {"prob": "prob"},
                **common,
            },
            {"name": "caffe", "outputs": {"prob": ["prob", 0], "conv2": ["conv2", 0]}, **caffe, **common},
            {"name": "wrong", "outputs": {"prob": ["conv1", 0]}, **caffe, **common},
            {"name": "none", "files": ["none.onnx"], **onnx, **common},
        )
        assert results["onnx"]["errors"]["prob"] <= 1e-5
        assert set(results["caffe"]["errors"]) == {"prob", "conv2"} and max(results["caffe"]["errors"].values()) <= 1e-5
        assert results["wrong"]["errors"]["prob"] == np.inf
        assert results["none"]["failure"]

    def test_rows_are_matched_by_themselves_or_by_others(self, peer, tmp_path):
        generator = np.random.default_rng(0)
        rois, scores = generator.uniform(0, 99, (200, 5)), generator.random((200, 3))
        np.savez(tmp_path / "a.npz", **{"out/rois": rois, "out/scores": scores})
        job = {"data": str(tmp_path / "a.npz"), "rows": ["scores", "rois"], "by": "rois"}
        order = generator.permutation(200)
        found = {"rois": rois[order], "scores": scores[order]}
        assert peer.compare(job, found) == {"rois": 0, "scores": 0}
        assert peer.compare(job, {name: values[:199] for name, values in found.items()}) == {"rois": 0, "scores": 0}
        assert peer.compare(job, {name: values[:190] for name, values in found.items()})["scores"] == np.inf
        assert peer.compare(job, {**found, "scores": scores})["scores"] == np.inf
        own = {**job, "by": None, "rows": ["scores"]}
        assert peer.compare(own, {"scores": scores[order]}) == {"scores": 0}
        assert peer.compare({**own, "rows": []}, {"scores": scores[order]})["scores"] > 0.1

    def test_difference(self, peer):
        assert peer.difference(np.array([1.0, np.nan, np.inf]), np.array([1.0, np.nan, np.inf])) == 0
        assert peer.difference(np.array([9.0]), np.array([10.0])) == pytest.approx(0.1)
        assert peer.difference(np.array([np.nan]), np.array([0.0])) == np.inf
        assert peer.difference(np.zeros(2), np.zeros(3)) == np.inf


class TestRecord:
    def test_every_exported_type_agrees_in_onnxruntime_and_opencv(self):
        record = json.loads((FOLDER / "record.json").read_text())
        assert {"onnxruntime", "opencv5", "opencv4"} == set(record["versions"])
        for name, found in record["types"].items():
            agree, count = found["onnxruntime"]
            assert agree == count, name
        for name, found in record["nets"].items():
            assert all(error is not None and error <= 1e-4 for error in found.values()), name
