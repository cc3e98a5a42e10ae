"""Recorded cases of layers whose top's shape depends on the data."""

from __future__ import annotations

import numpy as np
import torch
from layer_cases import FORWARD_TOLERANCE, REFERENCE, error

from caffe_bridge import schema, text_format
from caffe_bridge.registry import layer_class


def check_top(name: str) -> None:
    """Run the one layer of a recorded forward-only case and compare its top with Caffe's."""
    case = np.load(REFERENCE / f"{name}.npz")
    net = schema.NetParameter()
    text_format.parse(str(case["prototxt"]), net)
    param = net.layer[-1]
    bottoms = [torch.from_numpy(case[f"in/{bottom}"]) for bottom in param.bottom]
    layer = layer_class(param.type)(param, [tuple(b.shape) for b in bottoms], str(case["phase"]))
    (shape,) = layer.top_shapes([tuple(b.shape) for b in bottoms])
    top = layer(*bottoms)
    assert len(shape) == top.ndim == 4 and shape[3] == top.shape[3]
    assert error(top, case[f"out/{param.top[0]}"]) <= FORWARD_TOLERANCE
