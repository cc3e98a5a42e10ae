"""The error function, which no layer has, from powers and an exponential.

For z >= 0, erf z = 1 - (a1 t + ... + a5 t^5) exp(-z^2) with t = 1 / (1 + p z), to 1.5e-7 (Abramowitz and Stegun,
Handbook of Mathematical Functions, 7.1.26).
"""

from __future__ import annotations

import math
from typing import Any

from caffe_bridge.convert.caffe_import.graph import Node
from caffe_bridge.convert.caffe_import.powers import powered
from caffe_bridge.convert.caffe_import.registry import emits
from caffe_bridge.convert.caffe_import.writer import NetWriter

_P = 0.3275911
_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


@emits("gelu")
def gelu(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """relu(x) - |x| erfc(|x| / sqrt 2) / 2, with erfc from five Powers and an Exp, to 1e-6."""
    bottom, shape = bottoms[0], node.output.shape
    size = writer.add("AbsVal", [bottom], shape, "abs")
    rest = _complement(writer, size, 1 / math.sqrt(2), also=size)
    positive = writer.add("ReLU", [bottom], shape, "positive")
    param: dict[str, Any] = {"operation": "SUM", "coeff": [1, -0.5]}
    return writer.add("Eltwise", [positive, rest], shape, eltwise_param=param)


@emits("erf")
def erf(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """erfc(relu(-x)) - erfc(relu(x)), each from five Powers and an Exp, to 1e-6."""
    bottom, shape = bottoms[0], node.output.shape
    sides = []
    for suffix, blob in (("negative", powered(writer, bottom, "opposite", scale=-1)), ("positive", bottom)):
        sides.append(_complement(writer, writer.add("ReLU", [blob], shape, suffix), 1))
    param: dict[str, Any] = {"operation": "SUM", "coeff": [1, -1]}
    return writer.add("Eltwise", sides, shape, eltwise_param=param)


def _complement(writer: NetWriter, blob: str, factor: float, also: str | None = None) -> str:
    """1 - erf(factor x) for x that are not negative, times another blob."""
    shape = writer.shape(blob)
    powers = [
        powered(writer, blob, f"power{degree}", power=-degree, scale=factor * _P, shift=1) for degree in range(1, 6)
    ]
    param: dict[str, Any] = {"operation": "SUM", "coeff": _A}
    polynomial = writer.add("Eltwise", powers, shape, "polynomial", eltwise_param=param)
    square = powered(writer, blob, "square", power=2)
    decay = writer.add("Exp", [square], shape, "decay", exp_param={"scale": -factor * factor})
    factors = [polynomial, decay] if also is None else [polynomial, decay, also]
    return writer.add("Eltwise", factors, shape, "complement", eltwise_param={"operation": "PROD"})
