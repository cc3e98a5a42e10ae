"""A picture to try a detector on where none is at hand: textured shapes before a cluttered background."""

from __future__ import annotations

import cv2
import numpy as np


def draw_scene(seed: int, height: int = 375, width: int = 500, shapes: int = 6) -> np.ndarray:
    """The scene of a seed, uint8 [height, width, 3], blue, green, red; the same on every machine up to rounding."""
    random = np.random.RandomState(seed)
    image = _background(random, height, width)
    for kind in random.permutation(shapes):
        mask = _shape(random, kind % 3, height, width)
        texture = _texture(random, height, width)
        shadow = cv2.GaussianBlur(np.roll(mask, (6, 8), (0, 1)).astype(np.float32), (0, 0), 5)
        image *= 1 - 0.5 * shadow[..., None]
        image[mask] = texture[mask]
    noise = random.standard_normal(image.shape) * 4
    return np.clip(image + noise, 0, 255).round().astype(np.uint8)


def _background(random: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """Smooth colours under many thin lines and small discs, float [height, width, 3]."""
    image = cv2.resize(random.uniform(60, 200, (4, 5, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(60):
        ends = random.randint(0, [width, height], (2, 2)).tolist()
        cv2.line(image, tuple(ends[0]), tuple(ends[1]), random.uniform(30, 220, 3).tolist(), random.randint(1, 3))
    for _ in range(80):
        centre = tuple(random.randint(0, [width, height]).tolist())
        cv2.circle(image, centre, random.randint(2, 9), random.uniform(30, 220, 3).tolist(), cv2.FILLED)
    return cv2.GaussianBlur(image, (0, 0), 1.0)


def _shape(random: np.random.RandomState, kind: int, height: int, width: int) -> np.ndarray:
    """A turned ellipse, a polygon or a star somewhere in the picture, bool [height, width]."""
    mask = np.zeros((height, width), np.uint8)
    size = min(height, width)
    centre = np.array([random.uniform(0.15, 0.85) * width, random.uniform(0.2, 0.8) * height])
    if kind == 0:
        axes = random.uniform(0.10, 0.24, 2) * size
        cv2.ellipse(mask, (tuple(centre), tuple(2 * axes), random.uniform(0, 180)), 1, cv2.FILLED)
        return mask.astype(bool)
    corners = random.randint(4, 7) if kind == 1 else 2 * random.randint(4, 7)
    angles = np.sort(random.uniform(0, 1, corners)) if kind == 1 else np.arange(corners) / corners
    radii = random.uniform(0.18, 0.25, corners) * size
    if kind == 2:
        radii[::2] *= 0.5
    points = centre + radii[:, None] * np.stack([np.cos(2 * np.pi * angles), np.sin(2 * np.pi * angles)], 1)
    cv2.fillPoly(mask, [points.round().astype(np.int32)], 1)
    return mask.astype(bool)


def _texture(random: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """Stripes or checks of two colours with shading, float [height, width, 3]."""
    y, x = np.mgrid[:height, :width]
    angle, period = random.uniform(0, np.pi), random.uniform(8, 28)
    waves = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    if random.uniform() < 0.5:
        waves = waves * np.sin((y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / period)
    first, second = random.uniform(20, 235, (2, 3))
    shading = 0.75 + 0.5 * y[..., None] / height
    return (np.where(waves[..., None] > 0, first, second) * shading).clip(0, 255)
