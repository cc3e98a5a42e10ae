"""Training with the large matrix products in bfloat16.

Parameters, their gradients, losses, coordinates and everything else stay in float32: only convolutions and inner
products, and the layers between them that neither sum nor compare, run on bfloat16.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from caffe_bridge.errors import CaffeError
from caffe_bridge.net import Net

PRODUCTS = frozenset({"Convolution", "Deconvolution", "InnerProduct"})
TRANSPARENT = frozenset({"ReLU", "Dropout", "Split"})  # run on what comes; all other layers get float32


def use_bfloat16(net: Net) -> None:
    """Let a float32 net compute in mixed precision from now on.

    Raises:
        CaffeError: the net's device has no bfloat16, or its parameters are not float32.
    """
    parameter = next(net.parameters(), None)
    if parameter is not None:
        if parameter.dtype != torch.float32:
            raise CaffeError(f"mixed precision starts from float32 parameters, these are {parameter.dtype}")
        if parameter.is_cuda and not torch.cuda.is_bf16_supported():
            raise CaffeError(f"{torch.cuda.get_device_name(parameter.device)} has no bfloat16 arithmetic")
    for node in net.graph.nodes:
        if node.type in PRODUCTS:
            node.layer.forward = functools.partial(_product, node.layer.forward)
        elif node.type not in TRANSPARENT:
            node.layer.forward = functools.partial(_in_float32, node.layer.forward)


def _product(forward: Any, *bottoms: torch.Tensor) -> Any:
    with torch.autocast(bottoms[0].device.type, torch.bfloat16):
        return forward(*bottoms)


def _in_float32(forward: Any, *bottoms: torch.Tensor) -> Any:
    return forward(*(bottom.float() if bottom.dtype == torch.bfloat16 else bottom for bottom in bottoms))
