"""A module that behaves as `caffe` does in Python, on caffe-bridge's engine.

python -m caffe_bridge.pycaffe script.py ARGS      runs a script with `import caffe` answered by this module
caffe_bridge.pycaffe.install()                     the same inside a process
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys

from caffe_bridge import registry
from caffe_bridge.blob import Blob
from caffe_bridge.pycaffe import modes, proto
from caffe_bridge.pycaffe.modes import set_device, set_mode_cpu, set_mode_gpu, set_random_seed
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
from caffe_bridge.python_layer import TEST, TRAIN
from caffe_bridge.python_layer import UserLayer as Layer

__version__ = "1.0.0"

__all__ = [
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "Layer",
    "Net",
    "NesterovSolver",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "get_solver",
    "install",
    "layers",
    "params",
    "to_proto",
    "layer_type_list",
    "modes",
    "proto",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_random_seed",
]


def layer_type_list() -> list[str]:
    """Every layer type a prototxt may name."""
    return registry.layer_types()


def has_nccl() -> bool:
    """False: several GPUs are driven by torch.distributed here."""
    return False


def solver_count() -> int:
    """The number of solvers in this process: 1."""
    return 1


def solver_rank() -> int:
    """The rank of this process's solver: 0."""
    return 0


def init_log(level: int = 0, stderr: bool = False) -> None:
    """Show log messages of `level` (0 info, 1 warning, 2 error) and above."""
    logging.getLogger("caffe_bridge").setLevel((logging.INFO, logging.WARNING, logging.ERROR)[min(max(level, 0), 2)])


def log(message: str) -> None:
    """Write an info line to the log."""
    logging.getLogger("caffe_bridge").info(message)


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
