"""Layers without a net: build them from a prototxt, run recorded Caffe cases through them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from caffe_bridge import fillers, schema, text_format
from caffe_bridge.layers.base import Layer
from caffe_bridge.registry import layer_class

REFERENCE = Path(__file__).parent / "reference"
FORWARD_TOLERANCE, GRADIENT_TOLERANCE = 2e-5, 1e-4


def make_layer(text: str, *bottom_shapes: tuple[int, ...], phase: str = "TEST", fill: bool = True) -> Layer:
    """A layer from the inside of its `layer { }`; missing tops are named, parameters filled."""
    param = schema.LayerParameter()
    text_format.parse(text, param)
    cls = layer_class(param.type)
    param.name = param.name or "layer"
    while len(param.top) < cls.tops[0]:
        param.top.append(f"top{len(param.top)}")
    layer = cls(param, list(bottom_shapes), phase)
    if fill:
        for blob, filler in zip(layer.blobs, layer.fillers):
            fillers.fill(blob, filler)
    return layer


def cases(*prefixes: str, folder: str = "layers") -> list[str]:
    """Names of the recorded cases of layer families, as `folder/name`."""
    recorded = [path.stem for path in sorted((REFERENCE / folder).glob("*.npz"))]
    missing = {*prefixes} - {name.rsplit("_", 1)[0] for name in recorded}
    assert prefixes and not missing, f"no recorded case of {missing}"
    return [f"{folder}/{name}" for name in recorded if name.rsplit("_", 1)[0] in prefixes]


def error(got: torch.Tensor, wanted: np.ndarray) -> float:
    """max |got - wanted| / max(1, max |wanted|)."""
    assert tuple(got.shape) == wanted.shape
    if not wanted.size:
        return 0.0
    difference = np.abs(got.detach().double().numpy() - wanted.astype(np.float64)).max()
    return float(difference / max(1.0, np.abs(wanted).max()))


def check_case(name: str, fixed_shapes: bool = True) -> None:
    """Run one recorded case layer by layer and compare tops, statistics and gradients with Caffe's.

    `fixed_shapes` is for layers whose tops' shapes do not depend on data: `top_shapes` must foretell them.
    """
    case = np.load(REFERENCE / f"{name}.npz")
    net = schema.NetParameter()
    text_format.parse(str(case["prototxt"]), net)
    blobs: dict[str, torch.Tensor] = {}
    layers: dict[str, Layer] = {}
    seeds: dict[str, torch.Tensor] = {}
    leaves: dict[str, torch.Tensor] = {}
    for param in net.layer:
        if param.type == "Input":
            for top in param.top:
                blobs[top] = leaves[top] = torch.from_numpy(case[f"in/{top}"].copy()).requires_grad_()
            continue
        bottoms = [blobs[name] for name in param.bottom]
        layer = layer_class(param.type)(param, [tuple(b.shape) for b in bottoms], str(case["phase"]))
        layers[param.name] = layer
        for i, blob in enumerate(layer.blobs):
            with torch.no_grad():
                blob.copy_(torch.from_numpy(case[f"param/{param.name}/{i}"]))
        tops = layer(*(b.detach() if i in layer.no_gradient else b for i, b in enumerate(bottoms)))
        tops = (tops,) if isinstance(tops, torch.Tensor) else tops
        foretold = [tuple(shape) for shape in layer.top_shapes([tuple(b.shape) for b in bottoms])]
        assert [tuple(top.shape) for top in tops] == foretold or not fixed_shapes
        blobs.update(zip(param.top, tops))
        weights = list(param.loss_weight) or [1.0 if layer.is_loss else 0.0]
        seeds.update({name: torch.full_like(top, w) for name, top, w in zip(param.top, tops, weights) if w})
    compared = []
    for key in case.files:
        kind, _, rest = key.partition("/")
        if kind == "out" and rest in blobs:
            assert error(blobs[rest], case[key]) <= FORWARD_TOLERANCE, key
            compared.append(rest)
        elif kind == "param_after":
            layer_name, index = rest.rsplit("/", 1)
            assert error(layers[layer_name].blobs[int(index)], case[key]) <= FORWARD_TOLERANCE, key
    assert compared
    if case["forward_only"]:
        return
    seeds.update({key[5:]: torch.from_numpy(case[key]) for key in case.files if key.startswith("dtop/")})
    torch.autograd.backward([blobs[name] for name in seeds], list(seeds.values()))
    gradients = {f"din/{name}": leaf.grad for name, leaf in leaves.items()}
    for name, layer in layers.items():
        gradients.update({f"dparam/{name}/{i}": blob.grad for i, blob in enumerate(layer.blobs)})
    for key in case.files:
        kind, _, rest = key.partition("/")
        if kind == "din" and rest in blobs and rest not in leaves:
            continue
        if kind in ("din", "dparam"):
            gradient = gradients[key] if gradients.get(key) is not None else torch.zeros(case[key].shape)
            assert error(gradient, case[key]) <= GRADIENT_TOLERANCE, key
