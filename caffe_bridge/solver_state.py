"""What a snapshot holds besides the weights: Caffe's SolverState, and where the random streams and data layers stand.

Caffe reads only its own part (iteration, history, ...). Ours rides along as a field that Caffe skips, so that a
resumed run draws the same numbers and the same images as the undisturbed one would have.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caffe_bridge import randomness
from caffe_bridge.errors import WeightsError
from caffe_bridge.weights import SolverState


def capture(
    iteration: int, model: str, current_step: int, history: Sequence[torch.Tensor], layers: Mapping[str, Any]
) -> SolverState:
    """The state of a run: `layers` (name to layer) are asked for their `stream_state()` where they have one."""
    generator = np.random.get_state(legacy=False)
    drawn = randomness.state()
    streams = {
        "numpy": {
            **{key: generator[key] for key in ("bit_generator", "has_gauss", "gauss")},
            "key": generator["state"]["key"].tolist(),
            "pos": generator["state"]["pos"],
        },
        "torch": {"seed": drawn["seed"], "devices": {k: _encode(v) for k, v in drawn["devices"].items()}},
        "layers": {name: layer.stream_state() for name, layer in layers.items() if hasattr(layer, "stream_state")},
    }
    arrays = [value.detach().cpu().numpy() for value in history]
    return SolverState(iteration, model, current_step, arrays, json.dumps(streams).encode())


def resume_streams(state: SolverState, layers: Mapping[str, Any]) -> None:
    """Put the random streams and data layers back to where they were; nothing to do for Caffe's own states.

    Raises WeightsError when the recorded positions cannot be understood.
    """
    if not state.streams:
        return
    try:
        streams = json.loads(state.streams)
        recorded = streams["numpy"]
        key = np.asarray(recorded["key"], dtype=np.uint32)
        inner = {"key": key, "pos": int(recorded["pos"])}
        np.random.set_state({**{k: recorded[k] for k in ("bit_generator", "has_gauss", "gauss")}, "state": inner})
        drawn = streams["torch"]
        devices = {name: _decode(text) for name, text in drawn["devices"].items()}
        randomness.set_state({"seed": drawn["seed"], "devices": devices})
        positions = {name: value for name, value in streams["layers"].items() if name in layers}
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(f"the solver state's random streams are damaged: {error}") from error
    for name, position in positions.items():
        layers[name].set_stream_state(position)


def find_learned_net(recorded: str, state_path: str | Path) -> str:
    """The weights file a state names: as recorded, or of the same name next to the state."""
    beside = Path(state_path).with_name(Path(recorded).name)
    return recorded if Path(recorded).exists() or not beside.exists() else str(beside)


def _encode(values: torch.Tensor) -> str:
    return base64.b64encode(values.numpy().tobytes()).decode()


def _decode(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
