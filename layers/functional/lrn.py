"""Local response normalisation across channels (Krizhevsky et al., NIPS 2012, section 3.3; Caffe's layer LRN)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from caffe_bridge.layers.functional._library import gradient, operation


def lrn(images: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
    """x / (k + alpha / size * sum(x^2))^beta, the sum over `size` neighbouring channels, those that are there.

    Args:
        images (Tensor[N, C, H, W]): float32 or float64.
        size: an odd number.

    Returns:
        Tensor[N, C, H, W].
    """
    return torch.ops.caffe_bridge.lrn(images, size, alpha, beta, k)


def _fake(images, size, alpha, beta, k):
    return torch.empty_like(images)


@operation("lrn(Tensor images, int size, float alpha, float beta, float k) -> Tensor", _fake)
def lrn_in_torch(images: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
    """The same in torch's own operations."""
    columns = images.square().flatten(2).unsqueeze(1)
    mean = F.avg_pool2d(columns, (size, 1), stride=1, padding=(size // 2, 0)).reshape(images.shape)
    return images * (k + alpha * mean).pow(-beta)


def _fake_backward(grad, images, size, alpha, beta, k):
    return torch.empty_like(images)


@operation(
    "lrn_backward(Tensor grad, Tensor images, int size, float alpha, float beta, float k) -> Tensor", _fake_backward
)
def _backward_images(
    grad: torch.Tensor, images: torch.Tensor, size: int, alpha: float, beta: float, k: float
) -> torch.Tensor:
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        return torch.autograd.grad(lrn_in_torch(leaf, size, alpha, beta, k), leaf, grad)[0]


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.settings = inputs[1:]


def _backward(ctx, grad):
    (images,) = ctx.saved_tensors
    if torch.is_grad_enabled():  # a derivative of the gradient is wanted
        top = lrn_in_torch(images, *ctx.settings)
        return *torch.autograd.grad(top, images, grad, create_graph=True), *[None] * 4
    return torch.ops.caffe_bridge.lrn_backward(grad, images, *ctx.settings), *[None] * 4


gradient("lrn", _backward, _save)
