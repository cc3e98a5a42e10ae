"""Max pooling with Caffe's windows; several times as fast on the CPU as torch's."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from caffe_bridge.layers.functional._library import gradient, operation

# What Caffe starts a maximum from.
LOWEST = torch.finfo(torch.float32).min

Pair = tuple[int, int]


def max_pool(images: torch.Tensor, kernel: Pair, stride: Pair, pad: Pair, out: Pair) -> torch.Tensor:
    """Maxima of windows.

    Args:
        images (Tensor[N, C, H, W]): float32 or float64.
        kernel, stride, pad: height and width in cells; `pad` is smaller than `kernel`.
        out: how many windows there are along each axis; they may end, and even begin, beyond the image.

    Returns:
        Tensor[N, C, h, w]; -FLT_MAX for windows without a cell. NaN is larger than anything. The gradient goes to a
        window's first maximum in row order.
    """
    if images.requires_grad and torch.is_grad_enabled():
        return max_pool_indices(images, kernel, stride, pad, out)[0]
    return torch.ops.caffe_bridge.max_pool(images, *kernel, *stride, *pad, *out)


def max_pool_indices(
    images: torch.Tensor, kernel: Pair, stride: Pair, pad: Pair, out: Pair
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `max_pool`, with int32 Tensor[N, C, h, w] of the maxima's positions y * W + x, -1 for none."""
    return torch.ops.caffe_bridge.max_pool_indices(images, *kernel, *stride, *pad, *out)


_SCHEMA = (
    "(Tensor images, int kernel_h, int kernel_w, int stride_h, int stride_w, int pad_h, int pad_w,"
    " SymInt out_h, SymInt out_w)"
)


def _fake(images, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, out_h, out_w):
    return images.new_empty(*images.shape[:2], out_h, out_w)


@operation(f"max_pool{_SCHEMA} -> Tensor", _fake)
def _forward(images: torch.Tensor, *windows: int) -> torch.Tensor:
    return _forward_indices(images, *windows)[0]


def _fake_indices(images, *windows):
    top = _fake(images, *windows)
    return top, torch.empty_like(top, dtype=torch.int32)


@operation(f"max_pool_indices{_SCHEMA} -> (Tensor, Tensor)", _fake_indices)
def _forward_indices(images: torch.Tensor, *windows: int) -> tuple[torch.Tensor, torch.Tensor]:
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, out_h, out_w = windows
    height, width = images.shape[2:]
    bottom = max((out_h - 1) * stride_h + kernel_h - height - pad_h, 0)
    right = max((out_w - 1) * stride_w + kernel_w - width - pad_w, 0)
    padded = F.pad(images, [pad_w, right, pad_h, bottom], value=-torch.inf)
    pooled, index = F.max_pool2d(padded, (kernel_h, kernel_w), (stride_h, stride_w), return_indices=True)
    pooled, index = (tensor[:, :, :out_h, :out_w] for tensor in (pooled, index))
    y, x = index // padded.shape[3] - pad_h, index % padded.shape[3] - pad_w
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return pooled.masked_fill(~inside, LOWEST), torch.where(inside, y * width + x, -1).int()


def _fake_backward(grad, index, height, width):
    return grad.new_empty(*grad.shape[:2], height, width)


@operation("max_pool_backward(Tensor grad, Tensor index, SymInt height, SymInt width) -> Tensor", _fake_backward)
def _backward_images(grad: torch.Tensor, index: torch.Tensor, height: int, width: int) -> torch.Tensor:
    at = index.flatten(2).long()
    values = torch.where(at < 0, 0, grad.flatten(2))
    planes = grad.new_zeros(*grad.shape[:2], height * width)
    return planes.scatter_add_(2, at.clamp(min=0), values).unflatten(2, (height, width))


def _save(ctx, inputs, output) -> None:
    ctx.size = inputs[0].shape[2:]
    ctx.save_for_backward(output[1])


def _backward(ctx, grad, _):
    return torch.ops.caffe_bridge.max_pool_backward(grad, *ctx.saved_tensors, *ctx.size), *[None] * 8


def _save_index(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[1])


def _gather(ctx, grad):
    """The second derivative: values at the maxima."""
    (index,) = ctx.saved_tensors
    at = index.flatten(2).long()
    values = grad.flatten(2).gather(2, at.clamp(min=0))
    return torch.where(at < 0, 0, values).view(index.shape), None, None, None


gradient("max_pool_indices", _backward, _save)
gradient("max_pool_backward", _gather, _save_index)
