"""Residual nets with the layers of their authors' Caffe files, so that the released weights load by name.

    RESNET50, RESNET101, RESNET152      the released nets
    RESNET50.classifier(n)              from the blob `data` to the scores, blob `fc1000`
    RESNET50.trunk(n)                   from the blob `data` to conv4's last blob, stride 16
    RESNET50.stage(n, 5, "res4f")       one stage, here conv5, above any blob; returns its last blob

`n` is a NetSpec, and every function returns the name of the last blob it makes. Parameters get the ParamSpecs that
`specs` says, none by default; `suffix` is appended to the names of layers and blobs, for a stage that is used twice.

Source: K. He, X. Zhang, S. Ren, J. Sun: Deep Residual Learning for Image Recognition, CVPR 2016, and the files
ResNet-{50,101,152}-deploy.prototxt published with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L
from caffe_bridge.pycaffe.net_spec import params as P

Specs = Callable[[str, int], Sequence[dict[str, Any]]]
"""The ParamSpecs of a layer, given its published name (without suffix) and the number of its parameters."""


def unspecified(name: str, count: int) -> Sequence[dict[str, Any]]:
    """No ParamSpecs, as in the published files."""
    return ()


@dataclass(frozen=True)
class ResNet:
    """A net of bottleneck blocks.

    Attributes:
        units: how many blocks stages 2 to 5 have.
        numbered: name the later blocks of stages 3 and 4 b1, b2, ... as the deeper two nets do, not b, c, ...
        conv1_bias: whether the first convolution has a bias; ResNet-50's has one.
        width: channels of the first convolution; stage s makes width * 2 ** s.
        fillers: fillers of the convolutions, for nets that are trained from scratch.
        global_stats: normalise by the stored mean and variance in both phases. False leaves that to the phase.
    """

    units: tuple[int, int, int, int]
    numbered: bool = False
    conv1_bias: bool = False
    width: int = 64
    fillers: dict[str, Any] = field(default_factory=dict)
    global_stats: bool = True

    def classifier(self, n: NetSpec, classes: int = 1000, specs: Specs = unspecified) -> str:
        """The whole net, for images of 224 x 224 pixels: the scores, `fc1000`."""
        self.pooled(n, self.stage(n, 5, self.trunk(n, specs), specs))
        n.fc1000 = L.InnerProduct(n.pool5, num_output=classes, **_param(specs, "fc1000", 2))
        return "fc1000"

    def trunk(self, n: NetSpec, specs: Specs = unspecified) -> str:
        """Stages 1 to 4 above the blob `data`."""
        n.conv1 = L.Convolution(
            n.data,
            num_output=self.width,
            kernel_size=7,
            pad=3,
            stride=2,
            **({} if self.conv1_bias else {"bias_term": False}),
            **self.fillers,
            **_param(specs, "conv1", 1 + self.conv1_bias),
        )
        self._normalize(n, "conv1", "_conv1", "", specs)
        n.conv1_relu = L.ReLU(n.conv1, in_place=True)
        n.pool1 = L.Pooling(n.conv1, kernel_size=3, stride=2, pool=P.Pooling.MAX)
        top = "pool1"
        for number in (2, 3, 4):
            top = self.stage(n, number, top, specs)
        return top

    def stage(self, n: NetSpec, number: int, bottom: str, specs: Specs = unspecified, suffix: str = "") -> str:
        """Stage 2, 3, 4 or 5; all but the second halve the size of the features."""
        top = bottom
        for unit in self.unit_names(number):
            stride = 2 if unit == "a" and number > 2 else 1
            top = self._unit(n, number, unit, top, stride, specs, suffix)
        return top

    def unit_names(self, number: int) -> list[str]:
        """What the blocks of a stage are called: a, b, c, ... or a, b1, b2, ..."""
        count = self.units[number - 2]
        if self.numbered and number in (3, 4):
            return ["a", *(f"b{i}" for i in range(1, count))]
        return list(ascii_lowercase[:count])

    def pooled(self, n: NetSpec, bottom: str, suffix: str = "") -> str:
        """`pool5`: the mean over the 7 x 7 cells of the last stage."""
        top = f"pool5{suffix}"
        n[top] = L.Pooling(n[bottom], kernel_size=7, stride=1, pool=P.Pooling.AVE)
        return top

    def _unit(self, n: NetSpec, number: int, unit: str, bottom: str, stride: int, specs: Specs, suffix: str) -> str:
        """1 x 1, 3 x 3 and 1 x 1 convolutions, added to the bottom, or in block a to a 1 x 1 convolution of it."""
        name = f"{number}{unit}"
        inner = self.width * 2 ** (number - 2)
        shortcut = bottom
        if unit == "a":
            shortcut = self._conv(n, f"{name}_branch1", bottom, 4 * inner, 1, stride, specs, suffix)
        top = self._conv(n, f"{name}_branch2a", bottom, inner, 1, stride, specs, suffix)
        n[f"res{name}_branch2a_relu{suffix}"] = L.ReLU(n[top], in_place=True)
        top = self._conv(n, f"{name}_branch2b", top, inner, 3, 1, specs, suffix)
        n[f"res{name}_branch2b_relu{suffix}"] = L.ReLU(n[top], in_place=True)
        top = self._conv(n, f"{name}_branch2c", top, 4 * inner, 1, 1, specs, suffix)
        total = f"res{name}{suffix}"
        n[total] = L.Eltwise(n[shortcut], n[top])
        n[f"res{name}_relu{suffix}"] = L.ReLU(n[total], in_place=True)
        return total

    def _conv(
        self, n: NetSpec, name: str, bottom: str, channels: int, size: int, stride: int, specs: Specs, suffix: str
    ) -> str:
        """A convolution without bias, normalised."""
        top = f"res{name}{suffix}"
        n[top] = L.Convolution(
            n[bottom],
            num_output=channels,
            kernel_size=size,
            pad=size // 2,
            stride=stride,
            bias_term=False,
            **self.fillers,
            **_param(specs, f"res{name}", 1),
        )
        self._normalize(n, top, name, suffix, specs)
        return top

    def _normalize(self, n: NetSpec, blob: str, name: str, suffix: str, specs: Specs) -> None:
        """BatchNorm and, for what it learns, Scale."""
        settings = {"use_global_stats": True} if self.global_stats else {}
        bn, scale = f"bn{name}", f"scale{name}"
        n[bn + suffix] = L.BatchNorm(n[blob], in_place=True, **settings, **_param(specs, bn, 3))
        n[scale + suffix] = L.Scale(n[blob], in_place=True, bias_term=True, **_param(specs, scale, 2))


def _param(specs: Specs, name: str, count: int) -> dict[str, Any]:
    made = list(specs(name, count))
    return {"param": made} if made else {}


RESNET50 = ResNet((3, 4, 6, 3), conv1_bias=True)
RESNET101 = ResNet((3, 4, 23, 3), numbered=True)
RESNET152 = ResNet((3, 8, 36, 3), numbered=True)
