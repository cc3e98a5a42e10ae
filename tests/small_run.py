"""A data set and a training run that take seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from forked import Forked

from caffe_bridge import weights
from caffe_bridge.datasets import shapes

ROOT = Path(__file__).parent.parent
PROTOTXT = ROOT / "prototxt" / "mnc5_tiny"

SETTINGS = """
EXP_DIR: small
TRAIN:
  SCALES: [56]
  MAX_SIZE: 80
  BATCH_SIZE: 8
  BBOX_NORMALIZE_TARGETS_PRECOMPUTED: True
  BBOX_NORMALIZE_MEANS: [0.1, -0.2, 0.3, -0.4]
  RPN_BATCHSIZE: 16
  RPN_MIN_SIZE: 4
  RPN_PRE_NMS_TOP_N: 100
  RPN_POST_NMS_TOP_N: 6
TEST:
  SCALES: [56]
  MAX_SIZE: 80
  RPN_MIN_SIZE: 4
  RPN_PRE_NMS_TOP_N: 100
  RPN_POST_NMS_TOP_N: 12
"""

SOLVER = """
train_net: "{train}"
base_lr: 0.005 lr_policy: "step" stepsize: 3 gamma: 0.5 momentum: 0.9 weight_decay: 0.0005 clip_gradients: 5
display: 1 average_loss: 2 snapshot: 0 snapshot_prefix: "small" iter_size: {iter_size} {more}
"""


class SmallRun:
    """Files of a run in a folder: data/shapes, small.yml, solver.prototxt; and the arguments to use them."""

    def __init__(self, folder: Path, images: int = 8):
        self.folder = folder
        shapes.make(str(folder / "data" / "shapes"), images, 4, (64, 72), objects=(1, 3))
        (folder / "small.yml").write_text(SETTINGS)
        self.solver()

    def solver(self, iter_size: int = 1, more: str = "", train: Path = PROTOTXT / "train.prototxt") -> str:
        path = self.folder / f"solver_{iter_size}.prototxt"
        path.write_text(SOLVER.format(train=train, iter_size=iter_size, more=more))
        return str(path)

    def settings(self, exp_dir: str, *more: str) -> list[str]:
        own = ["ROOT_DIR", str(self.folder), "DATA_DIR", str(self.folder / "data"), "EXP_DIR", exp_dir]
        return ["--set", *own, *more]

    def training(
        self,
        exp_dir: str,
        iters: int,
        *flags: str,
        settings: tuple[str, ...] = (),
        iter_size: int = 1,
        train: Path = PROTOTXT / "train.prototxt",
    ):
        """Arguments of train-net."""
        own = [
            "--cpu",
            "--solver",
            self.solver(iter_size, train=train),
            "--imdb",
            "shapes_train",
            "--iters",
            str(iters),
        ]
        return [*own, "--cfg", str(self.folder / "small.yml"), *flags, *self.settings(exp_dir, *settings)]

    def testing(
        self,
        exp_dir: str,
        net: Path,
        *flags: str,
        settings: tuple[str, ...] = (),
        test: Path = PROTOTXT / "test.prototxt",
    ):
        """Arguments of test-net."""
        own = ["--cpu", "--def", str(test), "--net", str(net), "--imdb", "shapes_val"]
        return [*own, "--cfg", str(self.folder / "small.yml"), *flags, *self.settings(exp_dir, *settings)]

    def output(self, exp_dir: str, imdb: str = "shapes_train") -> Path:
        return self.folder / "output" / exp_dir / imdb

    def snapshot(self, exp_dir: str, iters: int) -> Path:
        return self.output(exp_dir) / f"small_iter_{iters}.caffemodel.h5"


def read_all(path: Path) -> dict[str, np.ndarray]:
    """Every parameter of a weights file."""
    with weights.read(path) as source:
        return {
            f"{layer}/{i}": blob.array().copy()
            for layer, blobs in source.blobs.items()
            for i, blob in enumerate(blobs)
            if blob is not None
        }


def torchrun(module: str, arguments: list[str], processes: int) -> subprocess.Popen:
    """A tool in several processes under torchrun."""
    several = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    command = [sys.executable, "-m", *several, f"caffe_bridge.tools.{module}", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen | Forked) -> str:
    """What the process printed; it has to end well."""
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output
