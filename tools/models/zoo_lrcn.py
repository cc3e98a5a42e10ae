"""The long-term recurrent convolutional network for activities in video."""

from __future__ import annotations

from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L

from . import blocks
from . import zoo_blocks as z
from .zoo_imagenet import trunk

FRAMES = 16
"""Time steps of a clip. Rows are time-major: the first frame of every clip, then the second of every clip, ..."""

TOPS = ("data", "label", "clip_markers")

CONVOLUTIONS: list[tuple[int, int, dict[str, Any]]] = [
    (96, 7, {"stride": 2}),
    (384, 5, {"group": 2, "stride": 2}),
    (512, 3, {"pad": 1}),
    (512, 3, {"pad": 1, "group": 2}),
    (384, 3, {"pad": 1, "group": 2}),
]

SOLVER: dict[str, Any] = {
    "net": "train_test.prototxt",
    "test_iter": [1],
    "test_interval": 100,
    "base_lr": 0.001,
    "lr_policy": "step",
    "gamma": 0.1,
    "stepsize": 10000,
    "display": 1,
    "max_iter": 30000,
    "momentum": 0.9,
    "weight_decay": 0.005,
    "snapshot": 5000,
    "snapshot_prefix": "lrcn",
    "random_seed": 1701,
    "average_loss": 1000,
    "clip_gradients": 5.0,
}


def lrcn() -> dict[str, Any]:
    """The published net reads videos by a Python layer of its authors; this one reads the same blobs from HDF5."""
    sources = [
        z.hdf5_data(TOPS, f"{split}.txt", FRAMES * clips, z.phase(phase))
        for phase, split, clips in (("TRAIN", "train", 24), ("TEST", "test", 3))
    ]
    return {"train_test.prototxt": z.train_test("lstm_joints", sources, _net), "solver.prototxt": SOLVER}


def _net(n: NetSpec) -> None:
    top = trunk(n, CONVOLUTIONS, [0.1] * 5)
    top = z.fc(n, "fc6", top, 4096, z.gaussian(0.01), 0.1)
    blocks.relu(n, "relu6", top)
    z.dropout(n, "drop6", top, 0.9)
    _clips(n, "fc6-reshape", "reshape-data", top)
    _clips(n, "reshape-label", "reshape-label", "label")
    _clips(n, "reshape-cm", "reshape-cm", "clip_markers")
    uniform = {"type": "uniform", "min": -0.01, "max": 0.01}
    settings = {"num_output": 256, "weight_filler": uniform, "bias_filler": z.constant(0)}
    n.lstm1 = L.LSTM(n["fc6-reshape"], n["reshape-cm"], recurrent_param=settings)
    n["lstm1-drop"] = L.Dropout(n.lstm1, dropout_ratio=0.5)
    param = [{"lr_mult": 10, "decay_mult": 1}, {"lr_mult": 20, "decay_mult": 0}]
    z.fc(n, "fc8-final", "lstm1-drop", 101, z.gaussian(0.01), param=param, axis=2)
    n.loss = L.SoftmaxWithLoss(n["fc8-final"], n["reshape-label"], softmax_param={"axis": 2})
    n.accuracy = L.Accuracy(n["fc8-final"], n["reshape-label"], axis=2)


def _clips(n: NetSpec, top: str, name: str, bottom: str) -> None:
    """Splits the rows into time steps and clips."""
    n[top] = L.Reshape(n[bottom], name=name, shape={"dim": [FRAMES, -1]}, num_axes=1)
