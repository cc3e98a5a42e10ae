"""A generated instance-segmentation data set: textured shapes that hide one another before a cluttered background.

It is written as SBD is on disk, so that everything that works on real data works on it unchanged.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from caffe_bridge.datasets.sbd import write_lists, write_sample
from caffe_bridge.errors import CaffeError

# Outlines within the unit circle: angles in turns and radii of their corners.
_CORNERS = {
    "square": (np.arange(4) / 4, np.ones(4)),
    "triangle": (np.arange(3) / 3, np.ones(3)),
    "star": (np.arange(10) / 10, np.tile([1.0, 0.42], 5)),
    "cross": (
        np.sort(np.concatenate([np.arange(4) / 4 + offset for offset in (0.05, 0.125, 0.2)])),
        np.tile([1.0, 0.445, 1.0], 4),
    ),
    "pentagon": (np.arange(5) / 5, np.ones(5)),
}
KINDS = ("disk", "square", "triangle", "star", "cross", "ring", "pentagon", "crescent")
SMALLEST, LARGEST = 0.15, 0.69  # a shape's diameter as a share of the image's short side
MIN_SIDE, MAX_SIDE = 32, 4096
_INSIDE, _VISIBLE = 0.8, 0.4  # least shares of a shape in the image, and that other shapes leave
_TRIES = 12


@dataclass(frozen=True)
class Scene:
    """An image and what is in it.

    Attributes:
        image: uint8 [H, W, 3], blue, green, red.
        instances: uint8 [H, W], 0 or the number of the object that is seen there.
        classes: the class number, from 1, of objects 1, 2, ...
    """

    image: np.ndarray
    instances: np.ndarray
    classes: list[int]


def draw(
    random: np.random.RandomState,
    height: int,
    width: int,
    kinds: Sequence[str] = KINDS[:4],
    objects: tuple[int, int] = (1, 4),
) -> Scene:
    """A scene of some of the `kinds`, class 1 the first of them.

    At least two fifths of every object are seen. Where no place is found for the last ones there are fewer.

    Args:
        objects: the fewest and the most.

    Raises:
        CaffeError: sides outside 32 to 4096 pixels, an unknown kind, or an impossible number of objects.
    """
    _check(height, width, kinds, objects)
    image = _background(random, height, width)
    instances = np.zeros((height, width), np.uint8)
    classes: list[int] = []
    areas: list[int] = []
    for _ in range(random.randint(objects[0], objects[1] + 1)):
        label = int(random.randint(len(kinds))) + 1
        placed = _place(random, kinds[label - 1], instances, areas)
        if placed is None:
            continue
        mask, area = placed
        classes.append(label)
        areas.append(area)
        instances[mask] = len(classes)
        _paint(random, image, mask)
    image += random.standard_normal(image.shape) * 4
    return Scene(image.clip(0, 255).round().astype(np.uint8), instances, classes)


def make(
    folder: str,
    train: int,
    val: int,
    size: tuple[int, int] = (160, 208),
    kinds: Sequence[str] = KINDS[:4],
    seed: int = 0,
    objects: tuple[int, int] = (1, 4),
) -> None:
    """Write a data set in SBD's layout: `train` and `val` images of `size` (height, width), lists and class names.

    An image depends on the seed, its list and its number alone, so a larger set begins with the smaller one.

    Raises:
        CaffeError: see `draw`; or the folder cannot be written.
    """
    _check(*size, kinds, objects)
    parts = {"train": train, "val": val}

    def one(part: int, name: str, number: int) -> None:
        random = np.random.RandomState([seed, part, number])
        scene = draw(random, *size, kinds, objects)
        write_sample(folder, name, scene.image, scene.instances, scene.classes, len(kinds))

    lists = {part: [f"{part}_{number:06d}" for number in range(count)] for part, count in parts.items()}
    jobs = [(part, name, i) for part, names in enumerate(lists.values()) for i, name in enumerate(names)]
    write_lists(folder, lists, kinds)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
        for _ in threads.map(one, *zip(*jobs)) if jobs else ():
            pass


def _check(height: int, width: int, kinds: Sequence[str], objects: tuple[int, int]) -> None:
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in (height, width)):
        raise CaffeError(f"images have sides of {MIN_SIDE} to {MAX_SIDE} pixels, not {height} x {width}")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds or len(set(kinds)) < len(kinds):
        raise CaffeError(f"classes are some of {', '.join(KINDS)}, each once; not {', '.join(kinds) or 'none'}")
    if not 1 <= objects[0] <= objects[1] <= 50:
        raise CaffeError(f"an image has 1 to 50 objects, the fewest first, not {objects[0]} to {objects[1]}")


def _place(
    random: np.random.RandomState, kind: str, instances: np.ndarray, areas: Sequence[int]
) -> tuple[np.ndarray, int] | None:
    """A shape's mask somewhere in the image and its area with what lies outside; half the time near another one.

    None where no place leaves enough of it and of those it covers.
    """
    height, width = instances.shape
    short = min(height, width)
    seen = np.bincount(instances.ravel(), minlength=len(areas) + 1)[1:]
    for _ in range(_TRIES):
        radius = 0.5 * short * math.exp(random.uniform(math.log(SMALLEST), math.log(LARGEST)))
        centre = random.uniform(0.0, 1.0, 2) * (width, height)
        if areas and random.uniform() < 0.5:
            y, x = np.nonzero(instances)
            near = random.randint(len(x))
            centre = np.array([x[near], y[near]]) + random.uniform(-1.0, 1.0, 2) * radius
        mask, area = _mask(random, kind, centre, radius, height, width)
        covered = np.bincount(instances[mask], minlength=len(areas) + 1)[1:]
        if mask.sum() >= _INSIDE * area and all((seen - covered) >= _VISIBLE * np.array(areas)):
            return mask, area
    if areas:
        return None
    return _mask(random, kind, np.array([width / 2, height / 2]), 0.2 * short, height, width)


def _mask(
    random: np.random.RandomState, kind: str, centre: np.ndarray, radius: float, height: int, width: int
) -> tuple[np.ndarray, int]:
    """A turned and slightly stretched shape, bool [H, W], and the number of pixels it would have in a larger image."""
    margin = math.ceil(1.3 * radius)
    canvas = np.zeros((height + 2 * margin, width + 2 * margin), np.uint8)
    turn, stretch = random.uniform(), random.uniform(0.85, 1.15)
    middle = centre + margin
    if kind in _CORNERS:
        angles, radii = _CORNERS[kind]
        _fill(canvas, middle, radius, stretch, turn, 2 * np.pi * angles, radii, 1)
    else:
        circle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        _fill(canvas, middle, radius, stretch, turn, circle, np.ones(48), 1)
        if kind == "ring":
            _fill(canvas, middle, 0.55 * radius, stretch, turn, circle, np.ones(48), 0)
        elif kind == "crescent":
            away = 0.5 * radius * np.array([np.cos(2 * np.pi * turn), np.sin(2 * np.pi * turn)])
            _fill(canvas, middle + away, 0.8 * radius, stretch, turn, circle, np.ones(48), 0)
    inside = canvas[margin : margin + height, margin : margin + width]
    return inside.astype(bool), int(np.count_nonzero(canvas))


def _fill(
    canvas: np.ndarray,
    centre: np.ndarray,
    radius: float,
    stretch: float,
    turn: float,
    angles: np.ndarray,
    radii: np.ndarray,
    value: int,
) -> None:
    unit = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1) * (stretch, 1 / stretch)
    cosine, sine = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    corners = centre + radius * unit @ np.array([[cosine, sine], [-sine, cosine]])
    cv2.fillPoly(canvas, [(corners * 16).round().astype(np.int32)], value, shift=4)


def _background(random: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """Smooth colours under lines, specks and small blocks, float32 [H, W, 3]."""
    colours = random.uniform(50, 205, (4, 5, 3)).astype(np.float32)
    image = cv2.resize(colours, (width, height), interpolation=cv2.INTER_CUBIC)
    count = max(8, height * width // 1500)
    limit = max(2, int(0.04 * min(height, width)))
    ends = random.randint(0, [width, height], (count, 2, 2))
    tones = random.uniform(20, 235, (count, 3))
    for number, ((start, end), tone) in enumerate(zip(ends.tolist(), tones.tolist())):
        reach = random.randint(1, limit + 1)
        if number % 3 == 0:
            cv2.line(image, start, end, tone, int(random.randint(1, 3)))
        elif number % 3 == 1:
            cv2.circle(image, start, int(reach), tone, cv2.FILLED)
        else:
            cv2.rectangle(image, start, [start[0] + int(reach), start[1] + limit], tone, cv2.FILLED)
    return cv2.GaussianBlur(image, (0, 0), 0.8)


def _paint(random: np.random.RandomState, image: np.ndarray, mask: np.ndarray) -> None:
    """Give the mask's pixels a texture of two colours with shading, and its edge a darker line."""
    y, x = np.nonzero(mask)
    angle, period = random.uniform(0, np.pi), random.uniform(6, 18)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    waves = np.sin(along * 2 * np.pi / period)
    pattern = random.randint(4)
    if pattern == 1:
        waves = waves * np.sin(across * 2 * np.pi / period)
    elif pattern == 2:
        waves = waves + np.sin(across * 2 * np.pi / period) - 1
    elif pattern == 3:
        waves = random.standard_normal(len(x))
    first, second = random.uniform(15, 240, (2, 3))
    second = first + 0.6 * (second - first)
    shade = 0.75 + 0.5 * (along - along.min()) / max(float(np.ptp(along)), 1.0)
    image[y, x] = (np.where(waves[:, None] > 0, first, second) * shade[:, None]).clip(0, 255)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1).astype(bool)
    image[mask & ~inner] *= random.uniform(0.45, 0.9)
