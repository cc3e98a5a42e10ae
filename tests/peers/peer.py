"""Run models in this environment's OpenCV and compare with what was computed elsewhere.

python peer.py JOBS.json RESULTS.json

Needs nothing but numpy and cv2. A job has a name, a format ("onnx": a file; "caffe": a prototxt and a caffemodel), its
files, an .npz with inputs `in/BLOB` and wanted outputs `out/BLOB`, and for each output its name in the model: of the
value, or of the layer and the number of the top. `rows` names the outputs whose rows may come in another order, `by`
the one by which the others' rows are matched. Each job runs in a process of its own, so that one that crashes is one
that failed. Results hold for each job the errors, max |got - wanted| / max(1, max |wanted|), or what went wrong.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

TOLERANCE = 1e-4
MATCHED = 0.99
LIMIT = 600
"""Seconds a job may take."""


def outputs_of(job: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What OpenCV computes for a job's inputs, by blob."""
    if job["format"] == "onnx":
        net = cv2.dnn.readNetFromONNX(job["files"][0])
    else:
        net = cv2.dnn.readNetFromCaffe(*job["files"])
        net.enableWinograd(False)  # its rounding adds up to more than the tolerance in nets of a hundred layers
    with np.load(job["data"]) as data:
        for key in data.files:
            if key.startswith("in/"):
                net.setInput(data[key], key[3:])
    outputs: Mapping[str, Any] = job["outputs"]
    if job["format"] == "onnx":
        return {blob: np.asarray(value) for blob, value in zip(outputs, net.forward(list(outputs.values())))}
    # A layer of one top may be called as that.
    known = set(net.getLayerNames())
    layers = [layer if layer in known else blob for blob, (layer, _) in outputs.items()]
    tops = net.forwardAndRetrieve(layers)
    return {blob: np.asarray(tops[i][top]) for i, (blob, (_, top)) in enumerate(outputs.items())}


def compare(job: Mapping[str, Any], got: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The error of each output."""
    with np.load(job["data"]) as data:
        wanted = {key[4:]: data[key] for key in data.files if key.startswith("out/")}
    got = {blob: _like(value, wanted[blob]) for blob, value in got.items()}
    rows, by = job.get("rows", []), job.get("by")
    found = {blob: difference(got[blob], wanted[blob]) for blob in got}
    if not rows or max(found[blob] for blob in rows) <= TOLERANCE:
        return found
    keys = {by: wanted[by]} if by else {blob: wanted[blob] for blob in rows}
    for key, others in keys.items():
        nearest, distance = nearest_rows(got[key], others)
        for blob in rows if by else [key]:
            values, expected = (
                x.reshape(len(k), -1) for x, k in ((got[blob], _rows(got[key])), (wanted[blob], _rows(others)))
            )
            scale = max(1.0, float(np.abs(expected).max(initial=0)))
            apart = np.abs(values[nearest].astype(np.float64) - expected).max(1) / scale
            near = (apart <= TOLERANCE) & (distance <= 0.05)
            enough = len(near) and near.mean() >= MATCHED and len(values) >= MATCHED * len(expected)
            found[blob] = float(apart[near].max()) if enough else float("inf")
    return found


def nearest_rows(got: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each wanted row the number of the nearest that was got, and how far it is."""
    rows, others = _rows(got).astype(np.float64), _rows(wanted).astype(np.float64)
    if not len(rows):
        return np.zeros(len(others), int), np.full(len(others), np.inf)
    apart = [np.abs(rows - other).max(1) for other in others]
    return np.array([a.argmin() for a in apart], int), np.array([a.min() for a in apart])


def _rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1])


def _like(value: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """A value in the shape of the wanted one, if only axes of one element differ."""
    if [size for size in value.shape if size != 1] == [size for size in wanted.shape if size != 1]:
        return value.reshape(wanted.shape)
    return value


def difference(got: np.ndarray, wanted: np.ndarray) -> float:
    """max |got - wanted| / max(1, max |wanted|); infinity where shapes, infinities or not-a-numbers differ."""
    if got.shape != wanted.shape:
        return float("inf")
    scale = max(1.0, float(np.abs(wanted[np.isfinite(wanted)], dtype=np.float64).max(initial=0)))
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    apart = np.abs(got[~same].astype(np.float64) - wanted[~same])
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0)) / scale


def run(job: Mapping[str, Any]) -> dict[str, Any]:
    """A job's result: {"errors": ...} or {"failure": ...}."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.alarm(LIMIT)
        try:
            result = {"errors": compare(job, outputs_of(job))}
        except cv2.error as error:
            result = {"failure": " ".join(str(error.err or error).split())[:300]}
        except Exception:
            result = {"failure": traceback.format_exc(limit=-1)[:300]}
        with os.fdopen(writing, "w") as file:
            json.dump(result, file)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if text else {"failure": f"ended with status {status}"}


def main(jobs: str, results: str) -> None:
    with open(jobs) as file:
        found = {job["name"]: run(job) for job in json.load(file)}
    with open(results, "w") as file:
        json.dump({"version": cv2.__version__, "results": found}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
