"""Show versions, devices, native kernels and registered layers (what a bug report needs)."""

from __future__ import annotations

import argparse
import importlib
import platform
import sys

from caffe_bridge.cli import run

MODULES = ("torch", "numpy", "google.protobuf", "cv2", "h5py", "onnx")


def devices() -> list[str]:
    """One line per device torch can compute on."""
    import torch

    found = [f"cpu, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"compute capability {properties.major}.{properties.minor}"
        found.append(f"cuda:{index}, {properties.name}, {properties.total_memory / 2**30:.0f} GiB, {capability}")
    return found


def report() -> list[tuple[str, str]]:
    """(what, value) pairs in the order they are printed."""
    from caffe_bridge import __version__, native, registry

    rows = [("caffe-bridge", __version__), ("python", f"{platform.python_version()} on {platform.platform()}")]
    for name in MODULES:
        try:
            rows.append((name, importlib.import_module(name).__version__))
        except ImportError as error:
            rows.append((name, f"not usable: {error}"))
    rows += [("device", device) for device in devices()]
    rows.append(("native kernels", str(native.status())))
    rows.append(("layer types", str(len(registry.layer_types()))))
    return rows


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    rows = report()
    width = max(len(what) for what, _ in rows)
    for what, value in rows:
        print(f"{what:<{width}}  {value}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
