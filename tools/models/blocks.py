"""Single layers with the settings the published definitions give them; blobs are addressed by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L
from caffe_bridge.pycaffe.net_spec import params as P

from .model import Model

MASK_SIZE = 21
"""Side of a predicted mask; the configuration's MASK_SIZE."""

FROZEN = [{"lr_mult": 0, "decay_mult": 0}] * 2


def trained(m: Model) -> list[dict[str, Any]]:
    """ParamSpecs of a trained weight and bias; the decay_mult of the published test networks has no effect."""
    if m.train:
        return [{"lr_mult": 1}, {"lr_mult": 2}]
    return [{"lr_mult": 1, "decay_mult": 1}, {"lr_mult": 2, "decay_mult": 0}]


def of_trunk(m: Model) -> list[dict[str, Any]]:
    """ParamSpecs of a convolution of the trunk."""
    return FROZEN if m.fixed_trunk else trained(m)


def shared(m: Model, name: str) -> list[dict[str, Any]]:
    """ParamSpecs of a weight and bias that other layers share under the names `name`_w and `name`_b."""
    specs: list[dict[str, Any]] = [{"name": f"{name}_w"}, {"name": f"{name}_b"}]
    if m.train:
        specs[0]["lr_mult"], specs[1]["lr_mult"] = 1, 2
    return specs


def gaussian(std: float) -> dict[str, Any]:
    """Fillers of a layer that no pretrained network provides: normal weights, zero bias."""
    return {"weight_filler": {"type": "gaussian", "std": std}, "bias_filler": {"type": "constant", "value": 0}}


def pretrained(m: Model) -> dict[str, Any]:
    """Fillers of a layer that a pretrained network provides: none, unless the model is trained from scratch."""
    return {"weight_filler": {"type": "msra"}} if m.from_scratch else {}


def relu(n: NetSpec, name: str, blob: str) -> None:
    n[name] = L.ReLU(n[blob], in_place=True)


def dropout(n: NetSpec, name: str, blob: str) -> None:
    n[name] = L.Dropout(n[blob], in_place=True, dropout_ratio=0.5)


def halve(n: NetSpec, name: str, bottom: str, top: str | None = None) -> None:
    """Max pooling of RoI features, 2 x 2 with stride 2."""
    n[top or name] = L.Pooling(n[bottom], name=name, kernel_size=2, stride=2, pad=0, pool=P.Pooling.MAX)


def fc(n: NetSpec, name: str, bottom: str, num_output: int, param: Sequence[dict[str, Any]], **fillers: Any) -> None:
    settings = {"param": list(param)} if param else {}
    n[name] = L.InnerProduct(n[bottom], num_output=num_output, **settings, **fillers)


def python(
    n: NetSpec,
    name: str,
    layer: str,
    bottoms: Sequence[str],
    tops: Sequence[str],
    propagate_down: Sequence[bool] | None = None,
    **options: Any,
) -> None:
    """A Python layer, `layer` being its module and class, `options` its param_str."""
    module, class_name = layer.rsplit(".", 1)
    settings: dict[str, Any] = {"python_param": {"module": module, "layer": class_name}}
    if options:
        settings["python_param"]["param_str"] = str(options)
    if propagate_down is not None:
        settings["propagate_down"] = propagate_down
    made = L.Python(*(n[b] for b in bottoms), name=name, ntop=len(tops), **settings)
    for top, value in zip(tops, [made] if len(tops) == 1 else made):
        n[top] = value


def softmax(n: NetSpec, name: str, scores: str) -> None:
    n[name] = L.Softmax(n[scores], loss_param={"ignore_label": -1, "normalize": True})


def softmax_loss(n: NetSpec, name: str, scores: str, labels: str, top: str) -> None:
    n[top] = L.SoftmaxWithLoss(
        n[scores],
        n[labels],
        name=name,
        propagate_down=[True, False],
        loss_weight=1,
        loss_param={"ignore_label": -1, "normalize": True},
    )


def box_loss(n: NetSpec, name: str, bottoms: Sequence[str], top: str, **settings: Any) -> None:
    """Smooth L1 over (prediction, targets, inside weights, outside weights)."""
    n[top] = L.SmoothL1Loss(*(n[b] for b in bottoms), name=name, loss_weight=1, **settings)


def inputs(n: NetSpec, shapes: dict[str, tuple[int, ...]]) -> None:
    """The blobs a test network is fed; rendered as NetParameter's `input` fields (see `render.net_message`)."""
    tops = L.Input(name="input", ntop=len(shapes), shape=[{"dim": list(shape)} for shape in shapes.values()])
    for name, top in zip(shapes, tops):
        n[name] = top
