"""The lines a net logs with `debug_info`: mean magnitudes of values and gradients, layer by layer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch

from caffe_bridge.blob import Blob
from caffe_bridge.graph import AUTOMATIC_TOP, Node
from caffe_bridge.solver_loop import number

log = logging.getLogger("caffe_bridge")


def log_forward(node: Node, blobs: Mapping[str, Blob], params: Sequence[Blob]) -> None:
    """After a layer's forward pass: its tops' and its parameters' values."""
    for name in node.tops:
        shown = AUTOMATIC_TOP if name.endswith(AUTOMATIC_TOP) else name
        log.info("    [Forward] Layer %s, top blob %s data: %s", node.name, shown, _mean(blobs[name].tensor))
    for i, blob in enumerate(params):
        shown = node.layer.param.param[i].name or str(i)
        log.info("    [Forward] Layer %s, param blob %s data: %s", node.name, shown, _mean(blob.tensor))


def log_backward(node: Node, blobs: Mapping[str, Blob], params: Sequence[Blob]) -> None:
    """After a layer's backward pass: the gradients of its bottoms and of its parameters, where there are any."""
    for name, need in zip(node.bottoms, node.bottom_need_backward):
        if need:
            log.info(
                "    [Backward] Layer %s, bottom blob %s diff: %s", node.name, name, _mean(blobs[name].diff_tensor)
            )
    for i, (blob, need) in enumerate(zip(params, node.param_need_backward)):
        if need:
            log.info("    [Backward] Layer %s, param blob %d diff: %s", node.name, i, _mean(blob.diff_tensor))


def log_parameters(learnable: Sequence[torch.nn.Parameter]) -> None:
    """After a whole backward pass: norms over all learned parameters and their gradients."""
    values = [parameter.detach() for parameter in learnable]
    diffs = [parameter.grad for parameter in learnable if parameter.grad is not None]
    norms = [number(_norm(tensors, order)) for order in (1, 2) for tensors in (values, diffs)]
    line = "    [Backward] All net params (data, diff): L1 norm = (%s, %s); L2 norm = (%s, %s)"
    log.error(line, *norms)


def _mean(values: torch.Tensor) -> str:
    return number(float(values.abs().mean()))


def _norm(tensors: Sequence[torch.Tensor], order: int) -> float:
    return float(torch.nn.utils.get_total_norm(tensors, order)) if tensors else 0.0
