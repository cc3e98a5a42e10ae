"""Copying a file's weights into parameters, and the account of what matched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from caffe_bridge.errors import WeightsError
from caffe_bridge.weights.contents import StoredBlob, Weights, blob_label, layer_label
from caffe_bridge.weights.hdf5 import Owners

ADVICE = (
    "to learn this layer from scratch rename it in the prototxt, or load with ignore_shapes=True to leave it as it is"
)
_SHOWN = 12


@dataclass
class LoadReport:
    """What of a weights file went into a net.

    Attributes:
        path: the file.
        loaded: (layer, index) of every parameter that got values; of a shared one, both its own place and its owner's.
        missing: layers of the net with parameters for which the file holds none.
        unused: layers of the file with blobs for which the net has no layer.
        mismatched: layers left as they were because counts or shapes differ, and how (only with ignore_shapes).
    """

    path: str
    loaded: list[tuple[str, int]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    mismatched: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        layers = len({layer for layer, _ in self.loaded})
        lines = [f"{self.path}: loaded {len(self.loaded)} parameters of {layers} layers"]
        if self.missing:
            lines.append(f"  not in the file: {_listed(self.missing)}")
        if self.unused:
            lines.append(f"  not in the net: {_listed(self.unused)}")
        lines.extend(f"  left as it was: layer '{layer}': {reason}" for layer, reason in self.mismatched.items())
        return "\n".join(lines)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def load_into(
    params: Mapping[str, Sequence[torch.Tensor]],
    weights: Weights,
    *,
    shared: Owners | None = None,
    ignore_shapes: bool = False,
) -> LoadReport:
    """Copy a file's values into the parameters of the layers of the same name, in place.

    Everything is checked before anything is copied: after an error the parameters are as they were.

    Args:
        params: layer name to its parameters in Caffe's order, of any dtype and device.
        weights: an open file.
        shared: `shared[layer][i]` is (layer, index) of the parameter that blob i shares, itself if it shares none.
            By default a tensor object seen before is shared.
        ignore_shapes: leave layers whose blobs differ in number or shape as they are, and report them.

    Raises:
        WeightsError: a layer in both has another number of blobs or other shapes (names file, layer and both
            shapes), or the file is broken there.
    """
    owners = shared if shared is not None else _owners(params)
    report = LoadReport(weights.path)
    plan: list[tuple[str, int, StoredBlob]] = []
    for layer, blobs in weights.blobs.items():
        if layer not in params:
            if blobs:
                report.unused.append(layer)
            continue
        difference = _difference(layer, params[layer], weights, owners)
        if difference is None:
            plan.extend((layer, i, blob) for i, blob in enumerate(blobs) if blob is not None)
        elif ignore_shapes:
            report.mismatched[layer] = difference
        else:
            raise WeightsError(f"{weights.path}: {layer_label(layer, weights.types)}: {difference}; {ADVICE}")
    for layer, i, blob in plan:
        if blob.problem:
            raise WeightsError(f"{weights.path}: {blob_label(layer, weights.types, i)}: {blob.problem}")
    for layer, i, _ in plan:
        copy_values(params[layer][i], weights.array(layer, i))
        report.loaded.append((layer, i))
        owner = _owner(owners, layer, i)
        if owner != (layer, i):
            report.loaded.append(owner)
    report.loaded = list(dict.fromkeys(report.loaded))
    got = set(report.loaded)
    report.missing = [
        layer
        for layer, tensors in params.items()
        if layer not in report.mismatched
        and any((layer, i) not in got and _owner(owners, layer, i) not in got for i in range(len(tensors)))
    ]
    return report


def _owners(params: Mapping[str, Sequence[torch.Tensor]]) -> dict[str, list[tuple[str, int]]]:
    first: dict[int, tuple[str, int]] = {}
    return {
        layer: [first.setdefault(id(tensor), (layer, i)) for i, tensor in enumerate(tensors)]
        for layer, tensors in params.items()
    }


def _owner(owners: Owners, layer: str, index: int) -> tuple[str, int]:
    places = owners.get(layer, ())
    return places[index] if index < len(places) else (layer, index)


def _difference(layer: str, tensors: Sequence[torch.Tensor], weights: Weights, owners: Owners) -> str | None:
    """How the blobs of a layer in the file differ from the net's, or None."""
    blobs = weights.blobs[layer]
    counts = f"the file holds {sum(blob is not None for blob in blobs)} blobs, the net's layer has {len(tensors)}"
    if len(blobs) > len(tensors) or (len(blobs) < len(tensors) and not weights.is_hdf5):
        return counts
    for i, tensor in enumerate(tensors):
        blob = blobs[i] if i < len(blobs) else None
        shared = _owner(owners, layer, i) != (layer, i)
        if blob is None:
            if not shared:
                return counts + f" and shares none for blob {i}"
        elif shared and math.prod(blob.shape) == tensor.numel():
            continue  # a parameter shared under another shape (share_mode: PERMISSIVE) is seen in its owner's
        elif not blob.matches(tuple(tensor.shape)):
            return f"blob {i} has shape {blob.shape} in the file, {tuple(tensor.shape)} in the net"
    return None


@torch.no_grad()
def copy_values(target: torch.Tensor, values: np.ndarray) -> None:
    """Copy an array (of as many elements) into a tensor in place, converting its dtype, with one copy on the CPU."""
    if target.device.type == "cpu" and target.dtype in (torch.float32, torch.float64, torch.float16):
        np.copyto(target.detach().numpy(), values.reshape(target.shape), casting="unsafe")
        if not target.is_inference():
            torch.autograd.graph.increment_version(target)
    else:
        target.copy_(torch.from_numpy(np.array(values, order="C")).view(target.shape))
