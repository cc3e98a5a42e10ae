"""VGG-16 as a start for MNC and CFM: from Caffe's files or torchvision's checkpoint, with the mask branch's layers.

MNC's mask branch has hidden layers of its own, `fc6_mask` and `fc7_mask`, which see 7 x 7 features as `fc6` does and
start from the same weights. `VGG16.mask.caffemodel`, which the original programs start from, is VGG-16 with these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from caffe_bridge import schema
from caffe_bridge.convert.formats import find_reader
from caffe_bridge.convert.model import Blobs, Model
from caffe_bridge.convert.tensor_files import load_safetensors, load_torch
from caffe_bridge.errors import WeightsError

CONVOLUTIONS = {
    "conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10, "conv3_2": 12, "conv3_3": 14,
    "conv4_1": 17, "conv4_2": 19, "conv4_3": 21, "conv5_1": 24, "conv5_2": 26, "conv5_3": 28,
}  # fmt: skip
"""Their places in torchvision's `features`."""

FULLY_CONNECTED = {"fc6": 0, "fc7": 3, "fc8": 6}
"""Their places in torchvision's `classifier`."""

IN_MASK_BRANCH = ("fc6", "fc7")

# What torchvision's nets are fed: (RGB / 255 - MEAN) / DEVIATION.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


def read_vgg16(path: str, mean: Sequence[float]) -> Model:
    """VGG-16 from a .caffemodel, .h5, or a .pth, .pt or .safetensors with Caffe's or torchvision's names.

    Args:
        mean: what is subtracted from images, (blue, green, red) from 0 to 255; torchvision's weights are converted for
            it, others are taken to fit.

    Raises:
        WeightsError: the file cannot be read, or holds another net.
    """
    lower = path.lower()
    if lower.endswith((".pth", ".pt", ".safetensors")):
        tensors = load_safetensors(path)[0] if lower.endswith(".safetensors") else load_torch(path)
        if any(name.startswith(("features.", "classifier.")) for name in tensors):
            return from_torchvision(path, tensors, mean)
    model = find_reader(path)(path)
    for name in (*CONVOLUTIONS, *IN_MASK_BRANCH):
        if len(model.layers.get(name, ())) != 2:
            raise WeightsError(f"{path}: no weights and bias for layer '{name}', so this is not VGG-16")
    return model


def from_torchvision(path: str, tensors: Mapping[str, torch.Tensor], mean: Sequence[float]) -> Model:
    """torchvision's VGG-16 for images in Caffe's form: blue, green, red, from 0 to 255, less `mean`.

    The first convolution takes over the order of the channels and the scale, and its bias the difference of the means.
    So the nets agree to rounding, except where the first convolution sees padding: there zero stands for Caffe's mean
    and not for torchvision's. With a mean of 103.53, 116.28, 123.675, which is torchvision's, they agree everywhere.

    Args:
        path: where the tensors came from, for errors.
        tensors: the checkpoint's state dict.

    Raises:
        WeightsError: a tensor is missing, has another shape, or belongs to another net.
    """
    places = {f"features.{i}": name for name, i in CONVOLUTIONS.items()}
    places |= {f"classifier.{i}": name for name, i in FULLY_CONNECTED.items()}
    known = {f"{place}.{kind}" for place in places for kind in ("weight", "bias")}
    for name in tensors:
        if name not in known:
            kind = "VGG-16 with batch normalisation" if name.endswith("running_mean") else "another net"
            raise WeightsError(f"{path}: a tensor '{name}', which torchvision's vgg16 has not; this is {kind}")
    layers: dict[str, Blobs] = {}
    for place, layer in places.items():
        if layer == "fc8" and f"{place}.weight" not in tensors:
            continue
        layers[layer] = [_tensor(path, tensors, f"{place}.{kind}").float() for kind in ("weight", "bias")]
    _check_shapes(path, layers)
    weight, bias = layers["conv1_1"]
    layers["conv1_1"] = _first_convolution(weight, bias, mean)
    return Model(path, layers, _definition(layers))


def with_mask_branch(model: Model) -> Model:
    """The model with `fc6` and `fc7` also as `fc6_mask` and `fc7_mask`.

    Raises:
        WeightsError: it has such layers already.
    """
    layers = dict(model.layers)
    definition = type(model.defined())()
    definition.CopyFrom(model.defined())
    for name in IN_MASK_BRANCH:
        copied = f"{name}_mask"
        if copied in layers:
            raise WeightsError(f"{model.path}: has a layer '{copied}' already")
        layers[copied] = list(layers[name])
        described = next((layer for layer in definition.layer if layer.name == name), None)
        added = definition.layer.add()
        if described is not None:
            added.CopyFrom(described)
        added.name = copied
        added.bottom[:] = [f"{bottom}_mask" for bottom in added.bottom]
        added.top[:] = [f"{top}_mask" for top in added.top]
        for spec in added.param:
            spec.ClearField("name")
    return Model(model.path, layers, definition)


def _tensor(path: str, tensors: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in tensors:
        raise WeightsError(f"{path}: no tensor '{name}', which torchvision's vgg16 has")
    return tensors[name]


def _check_shapes(path: str, layers: Mapping[str, Blobs]) -> None:
    """Widths may be any; what is between layers has to fit."""
    channels = 3
    for layer, (weight, bias) in layers.items():
        expected = (len(weight), channels, *((3, 3) if layer in CONVOLUTIONS else ()))
        if layer == "fc6":
            expected = (len(weight), channels * 49)
        if tuple(weight.shape) != expected or tuple(bias.shape) != expected[:1]:
            found = f"{tuple(weight.shape)} and {tuple(bias.shape)}"
            raise WeightsError(f"{path}: '{layer}' would have blobs {found}, not {expected} and {expected[:1]}")
        channels = len(weight)


def _first_convolution(weight: torch.Tensor, bias: torch.Tensor, mean: Sequence[float]) -> Blobs:
    deviation, centre = (torch.tensor(values, dtype=torch.float64) for values in (_DEVIATION, _MEAN))
    scaled = weight.double() / (255 * deviation)[:, None, None]
    shift = torch.tensor(mean, dtype=torch.float64).flip(0) - 255 * centre
    moved = bias.double() + (scaled * shift[:, None, None]).sum((1, 2, 3))
    return [scaled.flip(1).float(), moved.float()]


def _definition(layers: Mapping[str, Blobs]) -> Any:
    """What the layers are, for programs that read the weights file alone."""
    net = schema.NetParameter(name="VGG16")
    for name, (weight, _) in layers.items():
        if name in CONVOLUTIONS:
            layer = net.layer.add(name=name, type="Convolution")
            layer.convolution_param.num_output = len(weight)
            layer.convolution_param.kernel_size[:] = [3]
            layer.convolution_param.pad[:] = [1]
        else:
            net.layer.add(name=name, type="InnerProduct").inner_product_param.num_output = len(weight)
    return net
