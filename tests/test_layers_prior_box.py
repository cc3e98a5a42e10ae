import math

import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


def layer_for(fields, features=(1, 2, 3, 4), image=(1, 3, 60, 80)):
    return make_layer(f'type: "PriorBox" prior_box_param {{ {fields} }}', features, image)


@pytest.mark.parametrize("name", cases("PriorBox", folder="forks"))
def test_recorded(name):
    check_case(name)


def test_ssd300_has_8732_boxes():
    maps = [(38, 1, 1), (19, 1, 2), (10, 1, 2), (5, 1, 2), (3, 1, 1), (1, 1, 1)]
    total = 0
    for side, _, ratios in maps:
        text = "min_size: 30 max_size: 60 " + " ".join(f"aspect_ratio: {2 + i}" for i in range(ratios))
        shape = (1, 1, side, side)
        total += layer_for(text, shape).top_shapes([shape, (1, 3, 300, 300)])[0][2] // 4
    assert total == 8732


def boxes_by_loops(height, width, step, image, sizes, ratios):
    """Of every cell the boxes for (min, max) sizes, which are whole pixels here."""
    boxes = np.zeros((height, width, len(sizes) * (2 + len(ratios)), 4))
    for h, w in np.ndindex(height, width):
        x, y = (w + 0.5) * step[1], (h + 0.5) * step[0]
        sides = []
        for low, high in sizes:
            mean = math.sqrt(low * high)
            sides += [(low, low), (mean, mean)]
            sides += [(low * math.sqrt(r), low / math.sqrt(r)) for r in ratios]
        for k, (a, b) in enumerate(sides):
            pixels = (x - a / 2, y - b / 2, x + a / 2, y + b / 2)
            boxes[h, w, k] = np.array(pixels) / [image[1], image[0], image[1], image[0]]
    return boxes


def test_boxes_of_truncated_sizes():
    layer = layer_for("min_size: 10.9 min_size: 20 max_size: 15.9 max_size: 33 aspect_ratio: 2 step_h: 7 step_w: 9")
    boxes = layer(torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 60, 80))[0, 0].view(3, 4, 8, 4)
    wanted = boxes_by_loops(3, 4, (7, 9), (60, 80), [(10, 15), (20, 33)], (2, 0.5))
    np.testing.assert_allclose(boxes.numpy(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "flip", "count"), [((2, 0.5, 1), True, 3), ((2, 0.5), False, 3), ((2, 2, 3), True, 5), ((1,), True, 1)]
)
def test_ratios_are_not_repeated(given, flip, count):
    fields = "min_size: 8 " + " ".join(f"aspect_ratio: {r}" for r in given) + f" flip: {str(flip).lower()}"
    assert layer_for(fields).top_shapes([(1, 2, 3, 4), (1, 3, 60, 80)]) == [(1, 2, 3 * 4 * count * 4)]


def test_clipping_leaves_the_variances():
    top = layer_for("min_size: 500 clip: true variance: 2")(torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 60, 80))
    assert top[0, 0].unique().tolist() == [0, 1] and (top[0, 1] == 2).all()


@pytest.mark.parametrize(
    "fields",
    [
        "",
        "min_size: 0",
        "min_size: 5 max_size: 5",
        "min_size: 5 max_size: 6 max_size: 7",
        "min_size: 5 variance: 0.1 variance: 0.2",
        "min_size: 5 variance: 0",
        "min_size: 5 img_h: 3",
        "min_size: 5 img_size: 3 img_h: 3 img_w: 3",
        "min_size: 5 step: 3 step_h: 3 step_w: 3",
        "min_size: 5 step: 0",
        "min_size: 5 aspect_ratio: 0",
    ],
)
def test_refuses(fields):
    with pytest.raises(CaffeError):
        layer_for(fields)
