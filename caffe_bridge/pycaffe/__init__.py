"""A module that behaves as `caffe` does in Python, on caffe-bridge's engine.

python -m caffe_bridge.pycaffe script.py ARGS      runs a script with `import caffe` answered by this module
caffe_bridge.pycaffe.install()                     the same inside a process
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys

from caffe_bridge import log as _log
from caffe_bridge import registry
from caffe_bridge.blob import Blob
from caffe_bridge.pycaffe import draw, io, modes, proto
from caffe_bridge.pycaffe.classifier import Classifier
from caffe_bridge.pycaffe.detector import Detector
from caffe_bridge.pycaffe.modes import (
    NCCL,
    has_nccl,
    set_device,
    set_mode_cpu,
    set_mode_gpu,
    set_multiprocess,
    set_random_seed,
)
from caffe_bridge.pycaffe.net import Net
from caffe_bridge.pycaffe.net_spec import NetSpec, to_proto
from caffe_bridge.pycaffe.net_spec import layers as layers
from caffe_bridge.pycaffe.net_spec import params as params
from caffe_bridge.pycaffe.solvers import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    get_solver,
)
from caffe_bridge.pycaffe.timer import Timer
from caffe_bridge.python_layer import TEST, TRAIN
from caffe_bridge.python_layer import BlobVec as BlobVec
from caffe_bridge.python_layer import UserLayer as Layer
from caffe_bridge.solver_shares import set_solver_count, set_solver_rank, solver_count, solver_rank

__version__ = "1.0.0"

RawBlobVec = LayerVec = StringVec = IntVec = DtypeVec = NetVec = BoolVec = list

__all__ = [
    "NCCL",
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "Classifier",
    "Detector",
    "Layer",
    "Net",
    "NesterovSolver",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "Timer",
    "draw",
    "get_solver",
    "has_nccl",
    "init_log",
    "install",
    "io",
    "layer_type_list",
    "layers",
    "log",
    "modes",
    "params",
    "proto",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
    "to_proto",
]


def layer_type_list() -> list[str]:
    """Every layer type a prototxt may name, sorted."""
    return sorted({*registry.layer_types(), "Python"})


def init_log(level: int | None = None, stderr: bool = True) -> None:
    """Print log messages to stderr, from `level` (0 info, 1 warning, 2 error, 3 fatal) upwards.

    Args:
        level: GLOG_minloglevel by default.
        stderr: False only sets the level. (Caffe would write log files; caffe-bridge writes none.)
    """
    if stderr:
        _log.show(level)
    else:
        _log.set_level(_log.minimum_level() if level is None else level)


def log(message: str) -> None:
    """Write an info line to the log."""
    logging.getLogger("caffe_bridge").info("%s", message, stacklevel=2)


def install() -> None:
    """Answer `import caffe` and `import caffe.<submodule>` with this package for the rest of the process."""
    prefix = __name__ + "."
    for module in pkgutil.walk_packages(__path__, prefix):
        if not module.name.endswith(".__main__") and ".shim" not in module.name:
            importlib.import_module(module.name)
    for name, loaded in list(sys.modules.items()):
        if name == __name__ or name.startswith(prefix):
            sys.modules["caffe" + name[len(__name__) :]] = loaded
    for extension in ("caffe._caffe", "caffe.pycaffe"):
        sys.modules[extension] = sys.modules[__name__]
