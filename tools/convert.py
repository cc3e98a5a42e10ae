"""Convert weights between .caffemodel, .caffemodel.h5, .safetensors and torch (.pt, .pth); write nets as .onnx."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from caffe_bridge.cli import run

if TYPE_CHECKING:
    from caffe_bridge.convert.model import Model


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0, or 1 where a written ONNX model computes something else than the net.

    Raises CaffeError for files that cannot be converted.
    """
    parser = argparse.ArgumentParser(description=__doc__, epilog="Extensions name the formats.")
    parser.add_argument("source", nargs="+", metavar="SRC", help="file to read: weights, and optionally a .prototxt")
    parser.add_argument("destination", metavar="DST", help="file to write")
    parser.add_argument(
        "--model",
        metavar="PROTOTXT",
        help="the net: its layer types, parameters, order and parameter sharing go into the result",
    )
    onnx = parser.add_argument_group("writing .onnx (the sources must include a prototxt, or weights that hold one)")
    onnx.add_argument("--opset", type=int, help="version of ONNX's operators (default: 17)")
    onnx.add_argument(
        "--input-shape",
        type=_input_shape,
        action="append",
        metavar="NAME=N,C,H,W",
        help="shape of an input in place of the prototxt's",
    )
    onnx.add_argument("--static", action="store_true", help="fix batch and image size to the inputs' shapes")
    onnx.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        help="run model and net on random inputs and compare (default: if onnxruntime is installed)",
    )
    arguments = parser.parse_intermixed_args(argv)
    shapes = dict(arguments.input_shape or ())
    options: dict[str, Any] = {}
    if arguments.destination.lower().endswith(".onnx"):
        options = {"opset": arguments.opset, "input_shapes": shapes, "dynamic": not arguments.static}
    elif arguments.opset or shapes or arguments.static or arguments.verify:
        parser.error("--opset, --input-shape, --static and --verify are for writing .onnx")

    from caffe_bridge.convert.formats import convert
    from caffe_bridge.convert.model import count_blobs

    sources = [*arguments.source, *([arguments.model] if arguments.model else [])]
    model = convert(sources, arguments.destination, **options)
    layers = {name: blobs for name, blobs in model.completed().items() if blobs}
    size = os.path.getsize(arguments.destination)
    print(f"{arguments.destination}: {count_blobs(layers)} blobs of {len(layers)} layers, {size:,} bytes")
    if left_out := model.left_out():
        print(f"left out, since the model has no such layers: {', '.join(left_out)}")
    if options:
        return _verify(arguments.destination, model, shapes, arguments.verify)
    return 0


def _input_shape(text: str) -> tuple[str, list[int]]:
    name, _, dims = text.rpartition("=")
    try:
        shape = [int(dim) for dim in dims.split(",")]
    except ValueError:
        shape = []
    if not name or not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=N,C,H,W")
    return name, shape


def _verify(path: str, model: Model, input_shapes: dict[str, list[int]], wanted: bool | None) -> int:
    """Print each output's error; returns 1 if one is too large. Without onnxruntime, only if asked for."""
    from caffe_bridge.convert.onnx_export.verification import TOLERANCE, can_verify, errors
    from caffe_bridge.convert.onnx_files import build_net

    if wanted is False or (wanted is None and not can_verify()):
        print("not verified")
        return 0
    found = errors(build_net(model, input_shapes), path)
    for output, error in found.items():
        print(f"{output}: error {error:.2g}" + ("" if error <= TOLERANCE else f", above {TOLERANCE:g}"))
    return int(any(error > TOLERANCE for error in found.values()))


if __name__ == "__main__":
    sys.exit(run(main))
