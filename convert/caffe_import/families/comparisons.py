"""Comparisons with numbers."""

from __future__ import annotations

from typing import Any

from caffe_bridge.convert.caffe_import.graph import Node
from caffe_bridge.convert.caffe_import.powers import powered
from caffe_bridge.convert.caffe_import.registry import emits
from caffe_bridge.convert.caffe_import.writer import NetWriter


@emits("threshold")
def threshold(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Threshold."""
    return _compared(writer, bottoms[0], node["threshold"], "")


@emits("sign")
def sign(writer: NetWriter, node: Node, bottoms: list[str]) -> str:
    """Threshold of the value less Threshold of its opposite."""
    opposite = powered(writer, bottoms[0], "opposite", scale=-1)
    signs = [_compared(writer, bottoms[0], 0, "positive"), _compared(writer, opposite, 0, "negative")]
    param: dict[str, Any] = {"operation": "SUM", "coeff": [1, -1]}
    return writer.add("Eltwise", signs, node.output.shape, eltwise_param=param)


def _compared(writer: NetWriter, blob: str, limit: float, suffix: str) -> str:
    fields: dict[str, Any] = {"threshold_param": {"threshold": limit}} if limit else {}
    return writer.add("Threshold", [blob], writer.shape(blob), suffix, **fields)
