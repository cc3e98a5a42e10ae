"""Use an installed caffe-bridge from outside its sources; check.sh runs this in a fresh environment."""

import importlib
import importlib.metadata
import os
import pkgutil
import shutil
import sys
from pathlib import Path

import torch

import caffe_bridge

NET = """
name: "smoke"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 3 kernel_size: 3 pad: 1
                            weight_filler { type: "constant" value: 1 } bias_filler { type: "constant" value: -7 } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
"""


def check_location() -> None:
    """Every module comes from this environment, and nothing was left out of the wheel."""
    prefix = Path(sys.prefix).resolve()
    for module in pkgutil.walk_packages(caffe_bridge.__path__, "caffe_bridge."):
        if not module.name.endswith((".__main__", "._native")):  # a script, and a library that torch loads
            file = importlib.import_module(module.name).__file__
            assert file is not None and prefix in Path(file).resolve().parents, (module.name, file)
    assert importlib.metadata.version("caffe-bridge") == caffe_bridge.__version__
    assert (Path(caffe_bridge.__path__[0]) / "py.typed").is_file()


def check_prototxt() -> None:
    """The model definitions travel with the wheel."""
    folder = Path(importlib.import_module("caffe_bridge.prototxt").__path__[0])
    missing = [name for name in ("mnc5", "cfm", "faster_rcnn") if not (folder / name / "test.prototxt").is_file()]
    assert not missing, f"not in the wheel: prototxt/{missing}"


def check_native() -> None:
    """Where there is a compiler, the wheel carries its kernels and uses them."""
    native = importlib.import_module("caffe_bridge.native")
    wanted = shutil.which(os.environ.get("CXX", "c++")) and os.environ.get("CAFFE_BRIDGE_NATIVE") != "0"
    assert not wanted or native.status().loaded, str(native.status())


def check_forward() -> None:
    """A small net gives the sums one can work out by hand."""
    net = caffe_bridge.Net(NET, phase="TEST")
    pool = net(data=torch.ones(1, 2, 4, 4))["pool"]
    assert pool.shape == (1, 3, 2, 2)
    # 3x3 windows over two channels of ones: 18 inside, 12 at an edge, 8 in a corner; each 2x2 block has an inside one
    assert torch.equal(pool, torch.full((1, 3, 2, 2), 11.0)), pool


check_location()
check_forward()
check_native()
check_prototxt()
print("wheel: installed, imports, forward and data files are right")
