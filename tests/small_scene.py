"""A generated image as the data layers hand it over, in numbers that take a moment to work on."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy_reference.cascade import Truth

from caffe_bridge.datasets import shapes

SCALE = 1.6


def scene(seed: int, number: int) -> tuple[np.ndarray, Truth]:
    """An image [1, 3, 83, 96] less its means, two or three objects in it, and what is known of them."""
    drawn = shapes.draw(np.random.RandomState([seed, number]), 52, 60, objects=(2, 3))
    image = cv2.resize(drawn.image, None, fx=SCALE, fy=SCALE).astype(np.float64) - (103, 116, 123)
    boxes, masks = [], []
    for instance, label in enumerate(drawn.classes, 1):
        y, x = np.nonzero(drawn.instances == instance)
        box = np.array([x.min(), y.min(), x.max(), y.max()])
        boxes.append([*(box * SCALE), label])
        masks.append(drawn.instances[box[1] : box[3] + 1, box[0] : box[2] + 1] == instance)
    sizes = np.array([mask.shape for mask in masks])
    padded = np.zeros((len(masks), *sizes.max(0)))
    for place, mask in zip(padded, masks):
        place[: mask.shape[0], : mask.shape[1]] = mask
    truth = Truth(*image.shape[:2], SCALE, np.array(boxes), padded, sizes.astype(np.float64))
    return image.transpose(2, 0, 1)[None], truth


def mnc_blobs(image: np.ndarray, truth: Truth) -> tuple[torch.Tensor, ...]:
    """The tops of MNC's data layer; the first three are those of Faster R-CNN's."""
    info = np.array([[truth.height, truth.width, truth.scale]])
    return tuple(torch.from_numpy(blob) for blob in (image, info, truth.boxes, truth.masks, truth.mask_sizes))


def cfm_blobs(image: np.ndarray, truth: Truth, classes: int = 5, each: int = 3) -> tuple[torch.Tensor, ...]:
    """Tops of CFM's data layer: boxes near the objects, with targets made up."""
    random = np.random.RandomState(0)
    boxes = np.repeat(truth.boxes, each, 0)
    count, labels = len(boxes), boxes[:, 4:] * (random.rand(len(boxes), 1) < 0.7)
    near = np.clip(boxes[:, :4] + random.normal(0, 4, (count, 4)), 0, 80)
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 16)
    inside = np.repeat(np.eye(classes)[labels[:, 0].astype(int)] * (labels > 0), 4, 1)
    masks, targets = random.rand(count, 1, 14, 14) > 0.3, random.rand(count, 1, 21, 21) > 0.5
    weight = np.ones(targets.shape) * (labels > 0)[:, :, None, None]
    rois, deltas = np.insert(near, 0, 0, axis=1), random.normal(0, 1, inside.shape) * inside
    tops = (image, rois, masks, labels, labels, deltas, targets, inside, inside, weight)
    return tuple(torch.from_numpy(np.asarray(top, np.float64)) for top in tops)
