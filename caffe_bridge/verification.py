"""Comparing a net, blob by blob, with what another Caffe computed and `tools/dump_reference.py` recorded.

with Recording("dump.npz") as recording:
    net = pycaffe.Net("deploy.prototxt", "weights.caffemodel", recording.phase)
    rows = list(compare(net, recording))
first_divergence(rows)
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_bridge import pycaffe
from caffe_bridge.blob import Blob
from caffe_bridge.errors import CaffeError
from caffe_bridge.pycaffe.net import Net

FORMAT = 1
TOLERANCE = 1e-3
_CHUNK = 2**20
_DAMAGE = (KeyError, ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)
_ENTRIES: dict[str, dict[str, type]] = {
    "steps": {"layer": str, "type": str, "blob": str, "shape": list, "key": str},
    "backward": {"layer": str, "type": str, "blob": str, "shape": list, "key": str},
    "random": {"layer": str, "key": str, "position": int, "has_gauss": int, "gauss": float},
    "params": {"layer": str, "index": int, "shape": list, "crc32": int, "norm": float},
    "param_diffs": {"layer": str, "index": int, "shape": list, "key": str},
}


@dataclass(frozen=True)
class Row:
    """One compared array.

    Attributes:
        what: "parameter", "blob", "diff" or "parameter diff".
        layer, type: the layer it belongs to.
        name: the blob's name, or the parameter's index.
        shape: of this net's array.
        error: greatest absolute difference; infinite where there is nothing to compare.
        relative: `error` over the greatest magnitude in the recording.
        outside: share of the elements that differ by more than the tolerance allows.
        verdict: "equal" (within the tolerance), "differs", or "given" for values taken from the recording.
        note: why there is nothing to compare, or why a value was given.
    """

    what: str
    layer: str
    type: str
    name: str
    shape: tuple[int, ...]
    error: float
    relative: float
    outside: float
    verdict: str
    note: str = ""


class Recording:
    """A file written by dump_reference.py; its arrays are read one by one as they are asked for.

    Raises CaffeError when the file is none or is damaged.
    """

    def __init__(self, path: str | Path):
        self._path = path
        Path(path).stat()  # a missing file is an OSError that names it
        try:
            if not zipfile.is_zipfile(path):
                raise CaffeError("it is no zip archive")
            self._file = np.load(path, allow_pickle=False)
            self.index = json.loads(self._file["index"].tobytes().decode("utf-8"))
            self._check()
        except (*_DAMAGE, TypeError) as error:
            raise CaffeError(f"{path}: not a recording made by dump_reference.py: {error}") from error

    def _check(self) -> None:
        if self.index["format"] != FORMAT:
            raise CaffeError(f"it has format {self.index['format']!r}, this version reads {FORMAT}")
        if self.index["phase"] not in ("TRAIN", "TEST"):
            raise CaffeError(f"phase {self.index['phase']!r}")
        if not isinstance(self.index["seed"], int) or not 0 <= self.index["seed"] < 2**32:
            raise CaffeError(f"seed {self.index['seed']!r}")
        for name, fields in _ENTRIES.items():
            for entry in self.index[name]:
                for field, kind in fields.items():
                    if not isinstance(entry[field], kind):
                        raise CaffeError(f"'{field}' in '{name}' is {entry[field]!r}")
        if any(not 0 <= entry["position"] <= 624 for entry in self.index["random"]):  # NumPy does not check it
            raise CaffeError("a random state is out of range")
        for folder, field in (("in", "inputs"), ("out_diff", "output_diffs")):
            for name in self.index[field]:
                if f"{folder}/{name}" not in self._file:
                    raise CaffeError(f"'{folder}/{name}' is missing")

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def phase(self) -> int:
        """pycaffe.TRAIN or pycaffe.TEST."""
        return pycaffe.TRAIN if self.index["phase"] == "TRAIN" else pycaffe.TEST

    @property
    def has_backward(self) -> bool:
        """Whether diffs were recorded."""
        return bool(self.index["backward"])

    def array(self, key: str) -> np.ndarray:
        """One recorded array."""
        try:
            return self._file[key]
        except _DAMAGE as error:
            raise CaffeError(f"{self._path}: cannot read '{key}': {error}") from error

    def inputs(self) -> dict[str, np.ndarray]:
        """Input blob name to what it was given."""
        return {name: self.array(f"in/{name}") for name in self.index["inputs"]}

    def output_diffs(self) -> dict[str, np.ndarray]:
        """Output blob name to the diff it was given, where the net has no loss."""
        return {name: self.array(f"out_diff/{name}") for name in self.index["output_diffs"]}

    def set_random_state(self, layer: str) -> None:
        """Put NumPy's generator where it was after a data layer."""
        for entry in self.index["random"]:
            if entry["layer"] == layer:
                state = (self.array(entry["key"]), entry["position"], entry["has_gauss"], entry["gauss"])
                try:
                    np.random.set_state(("MT19937", *state))
                except (ValueError, TypeError, OverflowError) as error:
                    raise CaffeError(f"{self._path}: the random state after '{layer}' is damaged: {error}") from error


def compare(net: Net, recording: Recording, tolerance: float = TOLERANCE, isolate: bool = False) -> Iterator[Row]:
    """Run the net on the recording's inputs and compare parameters, blobs and diffs in the order they are made.

    What cannot be reproduced is taken from the recording: the tops of layers without bottoms (data layers are not run)
    and of dropout in training. NumPy's generator is seeded as it was, so layers that sample with it draw the same.
    Comparing ends at a layer that fails, with a row that says so.

    Args:
        net: in the recording's phase.
        tolerance: the greatest `relative` that counts as equal.
        isolate: give every layer the recorded values, so that each is judged alone and errors do not add up.

    Raises:
        CaffeError: the recording is damaged or its inputs are not those of the net.
    """
    _set_inputs(net, recording)
    yield from _compare_parameters(net, recording)
    np.random.seed(recording.index["seed"])
    pycaffe.set_random_seed(recording.index["seed"])
    run = _Run(net, recording, tolerance, isolate)
    yield from run.forward()
    if recording.has_backward and not run.failed:
        yield from run.backward()


def first_divergence(rows: Sequence[Row]) -> int | None:
    """The number of the first row that differs."""
    return next((i for i, row in enumerate(rows) if row.verdict == "differs"), None)


def _set_inputs(net: Net, recording: Recording) -> None:
    inputs = recording.inputs()
    if set(inputs) != set(net.inputs):
        raise CaffeError(f"the recording is of a net with inputs {', '.join(inputs)}; this has {', '.join(net.inputs)}")
    for name, value in inputs.items():
        net.blobs[name].reshape(*value.shape)
        net.blobs[name].data[...] = value


def _compare_parameters(net: Net, recording: Recording) -> Iterator[Row]:
    types = {name: layer.type for name, layer in net.layer_dict.items()}
    recorded = {(entry["layer"], entry["index"]): entry for entry in recording.index["params"]}
    for name, blobs in net.params.items():
        for k, blob in enumerate(blobs):
            entry = recorded.pop((name, k), None)
            head = ("parameter", name, types[name], str(k), blob.shape)
            if entry is None:
                yield Row(*head, math.inf, math.inf, 1.0, "differs", "not in the recording")
            elif tuple(entry["shape"]) != blob.shape:
                yield Row(*head, math.inf, math.inf, 1.0, "differs", f"recorded with shape {entry['shape']}")
            else:
                crc, norm = _checksum(blob.data)
                if crc == entry["crc32"]:
                    yield Row(*head, 0.0, 0.0, 0.0, "equal")
                else:
                    note = f"other values: norm {norm:.6g}, recorded {entry['norm']:.6g}"
                    yield Row(*head, math.inf, math.inf, 1.0, "differs", note)
    for (name, k), entry in recorded.items():
        shape = tuple(entry["shape"])
        yield Row("parameter", name, types.get(name, ""), str(k), shape, math.inf, math.inf, 1.0, "differs", "not here")


def _checksum(array: np.ndarray) -> tuple[int, float]:
    """crc32 of an array's float32 values and the norm of the array, as dump_reference.py records them."""
    flat = np.ascontiguousarray(array, "<f4").ravel()
    crc, squares = 0, 0.0
    for begin in range(0, flat.size, _CHUNK):
        part = flat[begin : begin + _CHUNK]
        crc = zlib.crc32(part.tobytes(), crc)
        squares += float((part.astype(np.float64) ** 2).sum())
    return crc, math.sqrt(squares)


class _Run:
    """One comparison in progress."""

    def __init__(self, net: Net, recording: Recording, tolerance: float, isolate: bool):
        self._net, self._recording = net, recording
        self._tolerance, self._isolate = tolerance, isolate
        self._nodes = net.torch_net.graph.nodes
        self.failed = False

    def forward(self) -> Iterator[Row]:
        """Rows of the tops of every layer."""
        recorded = {(entry["layer"], entry["blob"]): entry for entry in self._recording.index["steps"]}
        for i, node in enumerate(self._nodes):
            source = not node.bottoms
            if source:
                self._recording.set_random_state(node.name)
            else:
                error = self._step(self._net._forward, i)
                if error:
                    yield self._broken("blob", node, error)
                    return
            for top in self._net.top_names[node.name]:
                entry = recorded.pop((node.name, top), None)
                if node.type == "Input" or top not in self._net.blobs or (entry is None and node.type == "Split"):
                    continue
                blob = self._net.blobs[top]
                reason = "made by a data layer" if source else self._random(node)
                yield self._row("blob", node, top, blob, entry, reason)
        for (layer, top), entry in recorded.items():
            if entry["type"] not in ("Input", "Split"):
                shape = tuple(entry["shape"])
                yield Row("blob", layer, entry["type"], top, shape, math.inf, math.inf, 1.0, "differs", "not made here")

    def backward(self) -> Iterator[Row]:
        """Rows of the diffs of the bottoms that get one, last layer first, then of the parameters."""
        recorded = {(entry["layer"], entry["blob"]): entry for entry in self._recording.index["backward"]}
        self._net.clear_param_diffs()
        for name, diff in self._recording.output_diffs().items():
            if name not in self._net.outputs or self._net.blobs[name].shape != diff.shape:
                raise CaffeError(
                    f"the recording has a diff {diff.shape} of output '{name}', which this net does not make"
                )
            self._net.blobs[name].diff[...] = diff
        for i in reversed(range(len(self._nodes))):
            node = self._nodes[i]
            error = self._step(self._net._backward, i)
            if error:
                yield self._broken("diff", node, error)
                return
            if not node.need_backward:
                continue
            for bottom, needed in zip(node.bottoms, node.bottom_need_backward):
                entry = recorded.get((node.name, bottom))
                if needed and (entry is not None or node.type != "Split"):
                    yield self._row("diff", node, bottom, self._net.blobs[bottom], entry, self._random(node))
        diffs = {(entry["layer"], entry["index"]): entry for entry in self._recording.index["param_diffs"]}
        for node in self._nodes:
            for k, needed in enumerate(node.param_need_backward):
                if needed and node.need_backward:
                    blob = self._net.params[node.name][k]
                    yield self._row("parameter diff", node, str(k), blob, diffs.get((node.name, k)), "")

    @staticmethod
    def _step(action: Callable[[int, int], Any], layer: int) -> str:
        """Run one layer; returns what went wrong, if anything did."""
        try:
            action(layer, layer)
        except CaffeError as error:
            return str(error)
        return ""

    def _broken(self, what: str, node: Any, error: str) -> Row:
        self.failed = True
        return Row(what, node.name, node.type, "", (), math.inf, math.inf, 1.0, "differs", error)

    def _random(self, node: Any) -> str:
        training = self._recording.index["phase"] == "TRAIN"
        return "random" if node.type == "Dropout" and training else ""

    def _row(self, what: str, node: Any, name: str, blob: Blob, entry: dict[str, Any] | None, given: str) -> Row:
        """Compare a blob with its entry in the recording, or take it from there."""
        head = (what, node.name, node.type, name)
        if entry is None:
            return Row(*head, blob.shape, math.inf, math.inf, 1.0, "differs", "not in the recording")
        shape = tuple(entry["shape"])
        take = bool(given) or self._isolate
        if shape != blob.shape and not take:
            return Row(*head, blob.shape, math.inf, math.inf, 1.0, "differs", f"recorded with shape {shape}")
        recorded = self._recording.array(entry["key"])
        if recorded.shape != shape or recorded.dtype != np.float32:
            raise CaffeError(f"the recording of '{name}' after layer '{node.name}' is damaged")
        if given:
            row = Row(*head, shape, 0.0, 0.0, 0.0, "given", given)
        elif shape != blob.shape:
            row = Row(*head, blob.shape, math.inf, math.inf, 1.0, "differs", f"recorded with shape {shape}")
        else:
            error, relative, outside = difference(self._values(what, blob), recorded, self._tolerance)
            verdict = "equal" if relative <= self._tolerance else "differs"
            row = Row(*head, shape, error, relative, outside, verdict)
        if take and what != "parameter diff":
            blob.reshape(*shape)
            self._values(what, blob)[...] = recorded
        return row

    @staticmethod
    def _values(what: str, blob: Blob) -> np.ndarray:
        return blob.data if what == "blob" else blob.diff


def difference(ours: np.ndarray, recorded: np.ndarray, tolerance: float) -> tuple[float, float, float]:
    """Greatest absolute difference, the same over the recording's greatest magnitude, and the share of elements whose
    difference over that magnitude exceeds `tolerance`. Equal infinities and NaNs count as equal, others as infinite.
    """
    if recorded.size == 0:
        return 0.0, 0.0, 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        errors = np.abs(ours - recorded)
    errors[(ours == recorded) | (np.isnan(ours) & np.isnan(recorded))] = 0
    errors[np.isnan(errors)] = np.inf
    magnitude = float(np.abs(recorded, where=np.isfinite(recorded), out=np.zeros_like(recorded)).max())
    scale = magnitude or 1.0
    error = float(errors.max())
    return error, error / scale, float((errors > tolerance * scale).mean())
