"""Caffe's own layers: convolution, pooling, inner product, activations and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Back = Callable[[Any], Any]


def convolution(images: np.ndarray, weight: np.ndarray, bias: np.ndarray, pad: int) -> tuple[np.ndarray, Back]:
    """Correlation with stride 1. images [N, C, H, W], weight [O, C, k, k]; backward gives all three gradients."""
    kernel = weight.shape[2]
    padded = np.pad(images, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    height, width = (side - kernel + 1 for side in padded.shape[2:])
    offsets = [(y, x) for y in range(kernel) for x in range(kernel)]
    top = np.zeros((len(images), len(weight), height, width)) + bias[:, None, None]
    for y, x in offsets:
        top += np.einsum(
            "nchw,oc->nohw", padded[:, :, y : y + height, x : x + width], weight[:, :, y, x], optimize=True
        )

    def back(grad: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        to_padded, to_weight = np.zeros_like(padded), np.zeros_like(weight)
        for y, x in offsets:
            window = np.s_[:, :, y : y + height, x : x + width]
            to_padded[window] += np.einsum("nohw,oc->nchw", grad, weight[:, :, y, x], optimize=True)
            to_weight[:, :, y, x] = np.einsum("nohw,nchw->oc", grad, padded[window], optimize=True)
        inner = slice(pad, -pad or None)
        return to_padded[:, :, inner, inner], to_weight, grad.sum((0, 2, 3))

    return top, back


def max_pooling(images: np.ndarray, size: int = 2) -> tuple[np.ndarray, Back]:
    """Windows of size x size, as far apart; the last may hang over. The first of equal values gets the gradient."""
    height, width = (-(-side // size) for side in images.shape[2:])
    room = [(0, 0), (0, 0), (0, height * size - images.shape[2]), (0, width * size - images.shape[3])]
    padded = np.pad(images, room, constant_values=-np.inf)
    cells = padded.reshape(*images.shape[:2], height, size, width, size).swapaxes(3, 4)
    cells = cells.reshape(*images.shape[:2], height, width, size * size)
    first = cells.argmax(4)[..., None]

    def back(grad: np.ndarray) -> np.ndarray:
        spread = np.zeros(cells.shape)
        np.put_along_axis(spread, first, grad[..., None], 4)
        spread = spread.reshape(*grad.shape, size, size).swapaxes(3, 4).reshape(padded.shape)
        return spread[:, :, : images.shape[2], : images.shape[3]]

    return np.take_along_axis(cells, first, 4)[..., 0], back


def inner_product(values: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, Back]:
    """[N, ...] times weight [O, number of values]; backward gives all three gradients."""
    flat = values.reshape(len(values), -1)
    return flat @ weight.T + bias, lambda grad: (
        (grad @ weight).reshape(values.shape),
        grad.T @ flat,
        grad.sum(0),
    )


def relu(values: np.ndarray) -> tuple[np.ndarray, Back]:
    """max(x, 0), with gradient 0 at 0."""
    return np.maximum(values, 0), lambda grad: grad * (values > 0)


def sigmoid(values: np.ndarray) -> tuple[np.ndarray, Back]:
    top = 1 / (1 + np.exp(-values))
    return top, lambda grad: grad * top * (1 - top)


def softmax(scores: np.ndarray, axis: int = 1) -> np.ndarray:
    exponentials = np.exp(scores - scores.max(axis, keepdims=True))
    return exponentials / exponentials.sum(axis, keepdims=True)


def softmax_loss(scores: np.ndarray, labels: np.ndarray, weight: float, ignored: int = -1) -> tuple[float, Back]:
    """Mean of -log(probability of the label) over the labels that are not ignored.

    scores [N, classes, ...], labels [N, ...]. As for all losses here, backward takes no gradient: it starts with the
    loss's weight.
    """
    labels = labels.reshape(len(scores), *scores.shape[2:]).astype(int)
    kept = labels != ignored
    index = np.where(kept, labels, 0)[:, None]
    probabilities = softmax(scores)
    count = max(kept.sum(), 1)
    chosen = np.take_along_axis(probabilities, index, 1)[:, 0]
    slope = probabilities.copy()
    np.put_along_axis(slope, index, chosen[:, None] - 1, 1)
    return -np.log(chosen[kept]).sum() / count, lambda: weight * slope * kept[:, None] / count


def sigmoid_loss(logits: np.ndarray, targets: np.ndarray, weights: np.ndarray, weight: float) -> tuple[float, Back]:
    """Cross entropy with a weight per value, divided by their sum; 0 with an unscaled gradient where that is 0."""
    targets, weights = targets.reshape(logits.shape), weights.reshape(logits.shape)
    total = weights.sum()
    terms = np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits)))
    slope = weights * (1 / (1 + np.exp(-logits)) - targets)
    if total <= 0:
        return 0.0, lambda: slope
    return (weights * terms).sum() / total, lambda: weight * slope / total


def smooth_l1_loss(
    prediction: np.ndarray,
    target: np.ndarray,
    inside: np.ndarray,
    outside: np.ndarray,
    sigma: float,
    weight: float,
) -> tuple[float, Back]:
    """Sum of smooth absolute errors, divided by the length of the first axis."""
    difference = inside * (prediction - target)
    small = np.abs(difference) < 1 / sigma**2
    error = np.where(small, 0.5 * sigma**2 * difference**2, np.abs(difference) - 0.5 / sigma**2)
    slope = np.where(small, sigma**2 * difference, np.sign(difference))
    return (outside * error).sum() / len(prediction), lambda: weight * outside * inside * slope / len(prediction)
