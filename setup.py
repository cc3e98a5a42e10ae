"""Builds the native kernels; everything else is declared in pyproject.toml.

The extension is optional: without a C++ compiler the install succeeds and the pure-torch twins are used.
CUDA kernels are added when nvcc and a CUDA build of torch are there (CAFFE_BRIDGE_CUDA=1 or 0 overrules).
"""

import os
from pathlib import Path

import torch
from setuptools import setup
from torch.utils import cpp_extension

# Built against the stable ABI of torch 2.11, so that one library serves every later version.
DEFINES = [("TORCH_TARGET_VERSION", "0x020b000000000000")]
ROOT = Path(__file__).resolve().parent


def extension():
    cuda = torch.version.cuda is not None and cpp_extension.CUDA_HOME is not None
    if "CAFFE_BRIDGE_CUDA" in os.environ:
        cuda = os.environ["CAFFE_BRIDGE_CUDA"] == "1"
    suffixes = ("*.cpp", "*.cu") if cuda else ("*.cpp",)
    sources = [str(path.relative_to(ROOT)) for suffix in suffixes for path in sorted((ROOT / "csrc").glob(suffix))]
    flags = {
        "cxx": ["-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"],
        "nvcc": ["-O3", "--fmad=false"],
    }
    build = cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension
    return build(
        "caffe_bridge._native",
        sources,
        depends=[str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc").glob("*.h"))],
        define_macros=DEFINES + ([("CAFFE_BRIDGE_WITH_CUDA", None)] if cuda else []),
        extra_compile_args=flags,
        py_limited_api=True,
        optional=True,
    )


class OptionalBuild(cpp_extension.BuildExtension):
    """BuildExtension that reports a failed build and goes on: torch's raises where setuptools would not."""

    def run(self):
        try:
            super().run()
        except Exception as error:
            self.warn(f"native kernels were not built, the pure-torch ones will be used: {error}")


setup(
    ext_modules=[extension()],
    cmdclass={"build_ext": OptionalBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
