"""Convolutions with batch normalization, as nets released for inference have them."""

from __future__ import annotations

from typing import Any

from caffe_bridge.pycaffe.net_spec import NetSpec
from caffe_bridge.pycaffe.net_spec import layers as L

from . import blocks


def conv(n: NetSpec, name: str, bottom: str, num_output: int, **settings: Any) -> str:
    """A convolution without bias; `settings` are its parameters besides num_output."""
    n[name] = L.Convolution(n[bottom], num_output=num_output, bias_term=False, **settings)
    return name


def normalize(
    n: NetSpec, norm: str, scale: str, bottom: str, relu: str = "", in_place: bool = True, **eps: float
) -> str:
    """BatchNorm and Scale with a bias, called `norm` and `scale`, and a ReLU where it has a name.

    Without `in_place` BatchNorm's top is a blob of its own, which the others write over. `eps` is 1e-5 unless given.
    Returns the name to go on from.
    """
    n[norm] = L.BatchNorm(n[bottom], in_place=in_place, **eps)
    n[scale] = L.Scale(n[norm], in_place=True, bias_term=True)
    if relu:
        blocks.relu(n, relu, scale)
    return relu or scale
