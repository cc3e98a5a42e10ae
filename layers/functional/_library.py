"""How an operation is registered: schema, pure-torch twin, fake kernel, autograd; csrc/ adds its CPU and CUDA kernels.

The twin is the kernel of every device that has no native one, and of all devices when the extension is not loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from caffe_bridge import native

LIBRARY = torch.library.Library("caffe_bridge", "DEF")

_twins: dict[Any, Callable[..., Any]] = {}


def operation(schema: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: register a pure-torch function as `torch.ops.caffe_bridge.<name of the schema>`.

    `fake` returns empty tensors of the result's shapes; it is what torch.compile and torch.export trace.
    """

    def register(twin: Callable[..., Any]) -> Callable[..., Any]:
        name = schema.split("(", 1)[0]
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(name, twin, "CompositeExplicitAutograd")
        torch.library.register_fake(f"caffe_bridge::{name}", fake, lib=LIBRARY)
        _twins[getattr(torch.ops.caffe_bridge, name).default] = twin
        return twin

    return register


def gradient(name: str, backward: Callable[..., Any], save: Callable[..., None]) -> None:
    """Register the backward pass of an operation; `save(ctx, inputs, output)` keeps what it needs."""
    torch.library.register_autograd(f"caffe_bridge::{name}", backward, setup_context=save, lib=LIBRARY)


class pure_torch(TorchDispatchMode):
    """Context manager: run the pure-torch twins, whatever kernels are loaded."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _twins.get(func, func)(*args, **(kwargs or {}))


def has_kernel(tensor: torch.Tensor) -> bool:
    """Whether operations of which only the CPU has a native kernel are faster for this tensor than torch's own."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float, torch.double) and native.load().loaded


def in_float(tensor: torch.Tensor) -> torch.Tensor:
    """A half-precision tensor as float32, the least precision the kernels compute in; others unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
