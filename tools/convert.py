"""Convert nets and weights between Caffe, ONNX, PyTorch and safetensors, change them, and check the result."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_bridge.cli import run

if TYPE_CHECKING:
    from caffe_bridge.convert.changes import Changes
    from caffe_bridge.convert.model import Model

EPILOG = """Extensions name the formats: .prototxt, .caffemodel, .h5, .onnx, .pt2 (torch.export), .py (PyTorch source),
.safetensors, .pt. The last file is written; so is the one before it where the two are a .prototxt and weights, or a .py
and a .safetensors, and a whole net (an .onnx or .pt2, or a prototxt and weights) comes before them."""


def parser() -> argparse.ArgumentParser:
    """The arguments of the verb."""
    made = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    made.add_argument("files", nargs="+", metavar="FILE", help="sources, then the destination or the two of a net")
    made.add_argument(
        "--model",
        metavar="PROTOTXT",
        help="the net: its layer types, parameters, order and parameter sharing go into the result",
    )
    made.add_argument("--input-shape", type=_input_shape, action="append", metavar="NAME=N,C,H,W", help="of an input")
    made.add_argument("--opset", type=int, help="of .onnx: version of its operators (default: 17)")
    made.add_argument("--static", action="store_true", help="of .onnx: fix batch and image size to the inputs' shapes")
    made.add_argument("--target", help="of .onnx: the program that is to run it: onnxruntime (default), opencv5")
    made.add_argument("--dialect", help="from .onnx and .pt2: whose layers may be used (default: bvlc)")
    made.add_argument(
        "--torchvision",
        metavar="NAME",
        help="to .pt, .pth or .safetensors: a state dict for this network of torchvision; 'auto' finds it",
    )
    made.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        help="run both nets on the same inputs and compare (default: where both can be run)",
    )
    made.add_argument("--inputs", metavar="NPZ", help="arrays by the source's input names to compare on as well")
    changed = made.add_argument_group("changes, made in this order")
    changed.add_argument("--classes", type=int, metavar="N", help="another number of classes; their layers start anew")
    changed.add_argument("--cut", type=_names, default=(), metavar="BLOB,...", help="end the net at these blobs")
    changed.add_argument("--from", dest="start", type=_names, default=(), metavar="BLOB,...", help="begin it at these")
    changed.add_argument("--prune", action="store_true", help="drop what its outputs do not need")
    changed.add_argument("--fold", action="store_true", help="merge batch norm, scale and bias into the layer before")
    changed.add_argument("--fc-to-conv", action="store_true", help="cast InnerProduct layers to Convolutions")
    changed.add_argument(
        "--mean",
        metavar="MEAN",
        help="let the net take this off its image: numbers with commas between, in its channels' order, or a "
        ".binaryproto or .npy file",
    )
    changed.add_argument("--scale", type=_numbers, metavar="SCALE", help="... and then multiply by this")
    changed.add_argument("--rgb", action="store_true", help="let the net take its channels in reverse")
    changed.add_argument("--fp16", action="store_true", help="round the weights to half precision")
    changed.add_argument(
        "--rename", type=_renaming, action="append", default=[], metavar="OLD=NEW", help="a layer, a blob, or both"
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 0, or 1 where the written net computes something else than the one it was made from.

    Raises CaffeError for files that cannot be converted, and changes that cannot be made.
    """
    given = parser()
    arguments = given.parse_intermixed_args(argv)
    from caffe_bridge.convert import formats

    sources, destinations = formats.arranged(arguments.files)
    if arguments.model:
        sources.append(arguments.model)
    if not sources:
        given.error("a source and a destination are needed")
    suffixes = [formats.suffix_of(path, formats.WRITERS) for path in destinations]
    if (arguments.opset or arguments.static or arguments.target) and ".onnx" not in suffixes:
        given.error("--opset, --static and --target are for writing .onnx")
    if arguments.torchvision and not {*suffixes} <= {".pt", ".pth", ".safetensors"}:
        given.error("--torchvision is for writing .pt, .pth or .safetensors")
    if arguments.dialect and not any(path.endswith((".onnx", ".pt2")) for path in sources):
        given.error("--dialect is for reading .onnx and .pt2")
    shapes = dict(arguments.input_shape or ())
    original = formats.read_model(sources, **_reading(arguments, shapes))
    original = _with_input_shapes(original, shapes, sources)
    inputs = _inputs(arguments.inputs, original) if arguments.inputs else None
    first, changes = _changes(arguments, original).parts()
    reference, notes = first.apply(original)
    model, more = changes.apply(reference)
    if arguments.torchvision:
        return _write_torchvision(destinations[0], model, arguments, [*notes, *more])
    formats.write_model(model, destinations, **_writing(arguments, suffixes))
    _report(destinations, model, [*notes, *more])
    return _verify(arguments, [] if first.any() else sources, destinations, reference, model, changes, inputs)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of numbers with commas between") from None


def _renaming(text: str) -> tuple[str, str]:
    old, _, new = text.partition("=")
    if not old or not new:
        raise argparse.ArgumentTypeError(f"'{text}' is not OLD=NEW")
    return old, new


def _input_shape(text: str) -> tuple[str, list[int]]:
    name, _, dims = text.rpartition("=")
    try:
        shape = [int(dim) for dim in dims.split(",")]
    except ValueError:
        shape = []
    if not name or not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=N,C,H,W")
    return name, shape


def _reading(arguments: argparse.Namespace, shapes: Mapping[str, Sequence[int]]) -> dict[str, dict[str, Any]]:
    """Keyword arguments of the readers, by extension."""
    dialect = {"dialect": arguments.dialect} if arguments.dialect else {}
    return {"onnx": {"input_shapes": shapes or None, **dialect}, "pt2": dialect}


def _writing(arguments: argparse.Namespace, suffixes: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments of the writer of the destination."""
    if ".onnx" in suffixes:
        options = {"opset": arguments.opset, "dynamic": not arguments.static, "target": arguments.target}
        return {**options, "half": arguments.fp16}
    return {"half": arguments.fp16} if ".py" in suffixes else {}


def _with_input_shapes(model: Model, shapes: Mapping[str, Sequence[int]], sources: Sequence[str]) -> Model:
    from caffe_bridge.convert.surgery import set_input_shapes
    from caffe_bridge.convert.surgery.editing import graph_of
    from caffe_bridge.errors import CaffeError

    if not shapes:
        return model
    found = graph_of(model).shapes
    for name, shape in shapes.items():
        if sources[0].endswith(".pt2") and name in found and tuple(shape[1:]) != found[name][1:]:
            raise CaffeError(
                f"{sources[0]}: input '{name}' has shape {found[name]}, of which only the batch can be another; "
                "export the program with inputs of that shape"
            )
    return set_input_shapes(model, shapes)


def _inputs(path: str, model: Model) -> tuple[str, Mapping[str, np.ndarray]]:
    from caffe_bridge.convert.verification import read_inputs

    return path, read_inputs(path, model)


def _changes(arguments: argparse.Namespace, model: Model) -> Changes:
    from caffe_bridge.convert.changes import Changes

    return Changes(
        classes=arguments.classes,
        outputs=tuple(arguments.cut),
        starts=tuple(arguments.start),
        prune=arguments.prune,
        fold=arguments.fold,
        fc_to_conv=arguments.fc_to_conv,
        mean=_mean(arguments.mean, model) if arguments.mean else None,
        scale=arguments.scale,
        rgb=arguments.rgb,
        half=arguments.fp16,
        names=dict(arguments.rename),
    )


def _mean(text: str, model: Model) -> np.ndarray:
    """A mean per channel, or an image if the file's has the size of the net's input; else its channels' means."""
    from caffe_bridge import weights
    from caffe_bridge.convert.surgery.editing import graph_of, inference_model
    from caffe_bridge.convert.surgery.preprocessing import image_input
    from caffe_bridge.errors import WeightsError

    if not text.endswith((".binaryproto", ".npy")):
        return np.array(_numbers(text))
    if text.endswith(".npy"):
        try:
            array = np.load(text, allow_pickle=False)
        except ValueError as error:
            raise WeightsError(f"{text}: is no array: {error}") from error
    else:
        array = weights.read_blobproto(text)
    array = np.asarray(array, np.float64)
    array = array.reshape(array.shape[-3:]) if array.ndim > 3 and array.size == np.prod(array.shape[-3:]) else array
    graph = graph_of(inference_model(model))
    if array.ndim == 3 and array.shape != graph.shapes[image_input(model, graph)][1:]:
        return array.mean((1, 2))
    return array


def _write_torchvision(path: str, model: Model, arguments: argparse.Namespace, notes: Sequence[str]) -> int:
    """Write a state dict for torchvision, and say for which network, and what that computes otherwise."""
    from caffe_bridge.convert.torch_files import write_torchvision

    made = write_torchvision(path, model, architecture=arguments.torchvision, half=arguments.fp16)
    print(f"{path}: for torchvision.models.{made.architecture}(num_classes={made.classes}), {len(made.state)} tensors")
    for note in notes:
        print(note)
    for difference in made.differences:
        print(f"computes otherwise: {difference}")
    return 0


def _report(destinations: Sequence[str], model: Model, notes: Sequence[str]) -> None:
    from caffe_bridge.convert.model import count_blobs
    from caffe_bridge.convert.torch_files import weights_beside

    layers = {name: blobs for name, blobs in model.completed().items() if blobs}
    contents = f"{count_blobs(layers)} blobs of {len(layers)} layers, "
    files = [*destinations]
    if destinations[0].endswith(".py") and len(destinations) == 1:
        files.append(weights_beside(destinations[0]))
    for path in files:
        told = "" if path.endswith((".prototxt", ".py")) else contents
        print(f"{path}: {told}{os.path.getsize(path):,} bytes")
    for note in notes:
        print(note)
    if left_out := model.left_out():
        print(f"left out, since the model has no such layers: {', '.join(left_out)}")


def _verify(
    arguments: argparse.Namespace,
    sources: Sequence[str],
    destinations: Sequence[str],
    reference: Model,
    model: Model,
    changes: Changes,
    inputs: tuple[str, Mapping[str, np.ndarray]] | None,
) -> int:
    """Print each output's error; returns 1 if one is too large. `sources` are the files of the reference, if any."""
    from caffe_bridge.convert.formats import suffix_of
    from caffe_bridge.convert.verification import HALF_TOLERANCE, TOLERANCE, can_run, verify
    from caffe_bridge.errors import CaffeError

    suffixes = [suffix_of(path) for path in destinations]
    nets = [suffix for suffix in suffixes if suffix in (".prototxt", ".onnx", ".pt2", ".py")]
    if arguments.verify is False or not nets or suffixes == [".prototxt"] or not reference.layers:
        if arguments.verify:
            raise CaffeError(f"{destinations[-1]} holds no net that can be run and compared")
        return 0
    if arguments.verify is None and not can_run(nets[0]):
        print("not verified: that needs onnxruntime")
        return 0
    try:
        found = verify(sources, destinations, reference, model, changes, inputs)
    except CaffeError as error:
        if arguments.verify or arguments.inputs:
            raise
        print(f"not verified: {' '.join(str(error).split())}")
        return 0
    tolerance = HALF_TOLERANCE if changes.half else TOLERANCE
    for title, errors in found:
        for output, found_error in errors.items():
            above = f", above {tolerance:g}" if found_error > tolerance else ""
            print(f"{output}: error {found_error:.2g} on {title}{above}")
    return int(any(max(errors.values(), default=0) > tolerance for _, errors in found))


if __name__ == "__main__":
    sys.exit(run(main))
