"""The cascade on a residual net.

As in the detectors of the net's authors, what looks at the whole image ends with conv4, at stride 16, and conv5 with
its global pooling is applied to every RoI, where VGG-16 has fc6 and fc7. The box and the mask pathway, in both rounds,
share conv5's parameters, so that the weights of the ImageNet classifier are a whole start. conv1, conv2 and all
normalisation stay as they are: means and variances of large batches would be spoilt by those of one image.

Source: K. He, X. Zhang, S. Ren, J. Sun: Deep Residual Learning for Image Recognition, CVPR 2016, appendix A.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec

from . import mnc
from .model import Model
from .resnet import ResNet, unspecified

FROZEN = ("conv1", "res2", "bn", "scale")
"""How the names of layers begin that are not trained."""


def net(resnet: ResNet, m: Model) -> NetSpec:
    """The cascade in the model's phase."""
    return mnc.net(m, partial(_pathway, resnet), test_as_trained=True)


def trunk(resnet: ResNet, n: NetSpec, m: Model) -> str:
    """conv1 to conv4, from the blob `data`."""
    return resnet.trunk(n, _specs if m.train else unspecified)


def _pathway(resnet: ResNet, n: NetSpec, m: Model, branch: str, features: str, suffix: str) -> str:
    suffix = f"{branch}{suffix}"
    specs = _shared_specs if m.train else _shared
    return resnet.pooled(n, resnet.stage(n, 5, features, specs, suffix), suffix)


def _specs(name: str, count: int) -> list[dict[str, Any]]:
    rates = {"lr_mult": 0, "decay_mult": 0} if name.startswith(FROZEN) else {"lr_mult": 1}
    return [dict(rates) for _ in range(count)]


def _shared(name: str, count: int) -> list[dict[str, Any]]:
    return [{"name": f"{name}_{i}"} for i in range(count)]


def _shared_specs(name: str, count: int) -> list[dict[str, Any]]:
    return [shared | spec for shared, spec in zip(_shared(name, count), _specs(name, count))]
