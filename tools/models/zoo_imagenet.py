"""AlexNet, CaffeNet and what was made of it: R-CNN's classifier and the fully convolutional net of the net surgery."""

from __future__ import annotations

from functools import partial
from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L

from . import blocks
from . import zoo_blocks as z

Files = dict[str, Any]

CROPS = (10, 3, 227, 227)
"""What the published nets are fed: ten crops of one image."""

CONVOLUTIONS: list[tuple[int, int, dict[str, Any]]] = [
    (96, 11, {"stride": 4}),
    (256, 5, {"pad": 2, "group": 2}),
    (384, 3, {"pad": 1}),
    (384, 3, {"pad": 1, "group": 2}),
    (256, 3, {"pad": 1, "group": 2}),
]
"""num_output, kernel_size and the rest of the five convolutions."""

SOLVER: dict[str, Any] = {
    "net": "train_test.prototxt",
    "test_iter": [1000],
    "test_interval": 1000,
    "base_lr": 0.01,
    "lr_policy": "step",
    "gamma": 0.1,
    "stepsize": 100000,
    "display": 20,
    "max_iter": 450000,
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "snapshot": 10000,
}


def alexnet() -> Files:
    return _trained("AlexNet", "alexnet", partial(classifier, norm_first=True, bias=0.1))


def caffenet() -> Files:
    return _trained("CaffeNet", "caffenet", classifier)


def rcnn() -> Files:
    """CaffeNet whose scores are R-CNN's support vector machines."""
    body = partial(classifier, scores="fc-rcnn", classes=200)
    return {"deploy.prototxt": z.deploy("R-CNN-ilsvrc13", CROPS, body)}


def full_conv() -> Files:
    """CaffeNet that classifies every window of an image of any size."""
    return {"deploy.prototxt": z.deploy("CaffeNetConv", (1, 3, 451, 451), z.probabilities(_convolutional))}


def classifier(n: NetSpec, norm_first: bool = False, bias: float = 1, scores: str = "fc8", classes: int = 1000) -> str:
    """From `data` to scores.

    Args:
        norm_first: normalise before pooling, as AlexNet does, not after it.
        bias: what the biases of conv2, conv4, conv5, fc6 and fc7 start from.
        scores: name of the last layer.
    """
    top = trunk(n, CONVOLUTIONS, [0, bias, 0, bias, bias], norm_first)
    for i in (6, 7):
        top = z.fc(n, f"fc{i}", top, 4096, z.gaussian(0.005), bias)
        blocks.relu(n, f"relu{i}", top)
        z.dropout(n, f"drop{i}", top, 0.5)
    return z.fc(n, scores, top, classes, z.gaussian(0.01))


def trunk(
    n: NetSpec, convolutions: list[tuple[int, int, dict[str, Any]]], biases: list[float], norm_first: bool = False
) -> str:
    """Five convolutions, from `data` to `pool5`; the first two are pooled and normalised, the last is pooled."""
    top = "data"
    for i, ((channels, size, settings), bias) in enumerate(zip(convolutions, biases), start=1):
        top = z.conv(n, f"conv{i}", top, channels, size, z.gaussian(0.01), bias, **settings)
        blocks.relu(n, f"relu{i}", top)
        if i <= 2:
            for step in (_norm, _pool) if norm_first else (_pool, _norm):
                top = step(n, i, top)
    return _pool(n, 5, top)


def _trained(name: str, prefix: str, body: z.Body) -> Files:
    sources = [_ilsvrc("TRAIN", "train", 256, mirror=True), _ilsvrc("TEST", "val", 50, mirror=False)]
    return {
        "train_test.prototxt": z.train_test(name, sources, z.trained(body)),
        "deploy.prototxt": z.deploy(name, CROPS, z.probabilities(body)),
        "solver.prototxt": SOLVER | {"snapshot_prefix": prefix},
    }


def _ilsvrc(phase: str, split: str, batch_size: int, mirror: bool) -> Any:
    transform: dict[str, Any] = {"mirror": mirror, "crop_size": 227, "mean_file": "imagenet_mean.binaryproto"}
    return z.data(("data", "label"), f"ilsvrc12_{split}_lmdb", batch_size, z.phase(phase), **transform)


def _pool(n: NetSpec, i: int, bottom: str) -> str:
    return z.pool(n, f"pool{i}", bottom)


def _norm(n: NetSpec, i: int, bottom: str) -> str:
    n[f"norm{i}"] = L.LRN(n[bottom], local_size=5, alpha=1e-4, beta=0.75)
    return f"norm{i}"


def _convolutional(n: NetSpec) -> str:
    top = trunk(n, CONVOLUTIONS, [0] * 5)
    for i, size in ((6, 6), (7, 1)):
        top = z.conv(n, f"fc{i}-conv", top, 4096, size, z.gaussian(0.005))
        blocks.relu(n, f"relu{i}", top)
        z.dropout(n, f"drop{i}", top, 0.5)
    return z.conv(n, "fc8-conv", top, 1000, 1, z.gaussian(0.01))
