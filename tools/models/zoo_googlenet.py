"""GoogLeNet as Caffe trains it, with two further classifiers half way up."""

from __future__ import annotations

from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L

from . import blocks
from . import zoo_blocks as z

INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Channels of 1x1, 3x3_reduce, 3x3, 5x5_reduce, 5x5 and pool_proj."""

SOLVER: dict[str, Any] = {
    "net": "train_test.prototxt",
    "test_iter": [1000],
    "test_interval": 4000,
    "test_initialization": False,
    "display": 40,
    "average_loss": 40,
    "base_lr": 0.01,
    "lr_policy": "poly",
    "power": 0.5,
    "max_iter": 2400000,
    "momentum": 0.9,
    "weight_decay": 0.0002,
    "snapshot": 40000,
    "snapshot_prefix": "googlenet",
}
"""The quick one of the two published solvers, which the released weights were trained with."""


def googlenet() -> dict[str, Any]:
    sources = [_ilsvrc("TRAIN", "train", 32, mirror=True), _ilsvrc("TEST", "val", 50, mirror=False)]
    return {
        "train_test.prototxt": z.train_test("GoogleNet", sources, _trained),
        "deploy.prototxt": z.deploy("GoogleNet", (10, 3, 224, 224), z.probabilities(_classifier)),
        "solver.prototxt": SOLVER,
    }


def _ilsvrc(phase: str, split: str, batch_size: int, mirror: bool) -> Any:
    transform: dict[str, Any] = {"mirror": mirror, "crop_size": 224, "mean_value": [104, 117, 123]}
    return z.data(("data", "label"), f"ilsvrc12_{split}_lmdb", batch_size, z.phase(phase), **transform)


def _trained(n: NetSpec) -> None:
    _score(n, "loss3", _classifier(n, helpers=True), "loss3/loss3", weight=1)


def _classifier(n: NetSpec, helpers: bool = False) -> str:
    """From `data` to scores; `helpers` adds the classifiers above 4a and 4d."""
    top = _stem(n)
    for name in INCEPTIONS:
        top = _inception(n, name, top)
        if name in ("3b", "4e"):
            top = z.pool(n, f"pool{name[0]}/3x3_s2", top)
        if helpers and name in ("4a", "4d"):
            _helper(n, "loss1" if name == "4a" else "loss2", top)
    top = z.pool(n, "pool5/7x7_s1", top, "AVE", kernel_size=7, stride=1)
    z.dropout(n, "pool5/drop_7x7_s1", top, 0.4)
    return z.fc(n, "loss3/classifier", top, 1000, z.XAVIER)


def _stem(n: NetSpec) -> str:
    top = _conv(n, "conv1/", "7x7_s2", "data", 64, 7, relu="7x7", pad=3, stride=2)
    top = z.pool(n, "pool1/3x3_s2", top)
    top = _norm(n, "pool1/norm1", top)
    top = _conv(n, "conv2/", "3x3_reduce", top, 64, 1)
    top = _conv(n, "conv2/", "3x3", top, 192, 3, pad=1)
    top = _norm(n, "conv2/norm2", top)
    return z.pool(n, "pool2/3x3_s2", top)


def _inception(n: NetSpec, name: str, bottom: str) -> str:
    one, three_reduce, three, five_reduce, five, projected = INCEPTIONS[name]
    prefix = f"inception_{name}/"
    branches = [_conv(n, prefix, "1x1", bottom, one, 1)]
    reduced = _conv(n, prefix, "3x3_reduce", bottom, three_reduce, 1)
    branches.append(_conv(n, prefix, "3x3", reduced, three, 3, pad=1))
    reduced = _conv(n, prefix, "5x5_reduce", bottom, five_reduce, 1)
    branches.append(_conv(n, prefix, "5x5", reduced, five, 5, pad=2))
    pooled = z.pool(n, f"{prefix}pool", bottom, stride=1, pad=1)
    branches.append(_conv(n, prefix, "pool_proj", pooled, projected, 1))
    n[f"{prefix}output"] = L.Concat(*(n[branch] for branch in branches))
    return f"{prefix}output"


def _helper(n: NetSpec, name: str, bottom: str) -> None:
    top = z.pool(n, f"{name}/ave_pool", bottom, "AVE", kernel_size=5, stride=3)
    top = _conv(n, f"{name}/", "conv", top, 128, 1)
    top = z.fc(n, f"{name}/fc", top, 1024, z.XAVIER, bias=0.2)
    blocks.relu(n, f"{name}/relu_fc", top)
    z.dropout(n, f"{name}/drop_fc", top, 0.7)
    top = z.fc(n, f"{name}/classifier", top, 1000, z.XAVIER)
    _score(n, name, top, f"{name}/loss", weight=0.3)


def _score(n: NetSpec, prefix: str, scores: str, name: str, weight: float) -> None:
    n[f"{prefix}/loss{prefix[-1]}"] = L.SoftmaxWithLoss(n[scores], n.label, name=name, loss_weight=weight)
    n[f"{prefix}/top-1"] = L.Accuracy(n[scores], n.label, include=z.phase("TEST"))
    n[f"{prefix}/top-5"] = L.Accuracy(n[scores], n.label, include=z.phase("TEST"), top_k=5)


def _conv(
    n: NetSpec, prefix: str, name: str, bottom: str, channels: int, size: int, relu: str = "", **settings: Any
) -> str:
    top = z.conv(n, prefix + name, bottom, channels, size, z.XAVIER, 0.2, **settings)
    blocks.relu(n, f"{prefix}relu_{relu or name}", top)
    return top


def _norm(n: NetSpec, name: str, bottom: str) -> str:
    n[name] = L.LRN(n[bottom], local_size=5, alpha=1e-4, beta=0.75)
    return name
