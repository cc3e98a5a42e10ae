"""DetectionOutput against recorded cases and against SSD's loops written out in NumPy."""

import numpy as np
import pytest
import ssd_by_loops
import torch
from dynamic_cases import check_top
from layer_cases import cases, make_layer

from caffe_bridge import CaffeError
from caffe_bridge.layers.functional import pure_torch

DEFAULTS = {
    "num_classes": 4,
    "share_location": True,
    "background_label_id": 0,
    "code_type": "CENTER_SIZE",
    "variance_encoded_in_target": False,
    "keep_top_k": -1,
    "confidence_threshold": 0.25,
}
NMS = {"nms_threshold": 0.5, "top_k": -1, "eta": 1.0}


def fields(values):
    return " ".join(
        f"{key}: {str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()
    )


def random_bottoms(seed, images, count, classes, share_location):
    rng = np.random.default_rng(seed)
    centre, size = rng.random((count, 2)), rng.random((count, 2)) * 0.6 + 0.05
    boxes = np.concatenate([centre - size / 2, centre + size / 2], 1)
    prior = np.stack([boxes.ravel(), rng.choice([0.1, 0.2], 4 * count)])[None].astype(np.float32)
    codes = rng.normal(size=(images, count * (1 if share_location else classes) * 4)).astype(np.float32)
    scores = rng.random((images, count * classes)).astype(np.float32)
    return codes, scores, prior


def layer_for(options, nms, bottoms):
    text = f'type: "DetectionOutput" detection_output_param {{ {fields(options)} nms_param {{ {fields(nms)} }} }}'
    return make_layer(text, *(bottom.shape for bottom in bottoms))


def rows_by_loops(bottoms, options, nms):
    return ssd_by_loops.detection_output(*bottoms, ssd_by_loops.options(options, **nms))


@pytest.mark.parametrize("name", cases("DetectionOutput", folder="forks"))
def test_recorded(name):
    check_top(name)


@pytest.mark.parametrize("twin", [False, True])
@pytest.mark.parametrize(
    ("options", "nms"),
    [
        ({}, {}),
        ({"keep_top_k": 7}, {"top_k": 9}),
        ({"share_location": False, "background_label_id": -1}, {"eta": 0.8, "nms_threshold": 0.9}),
        ({"share_location": False, "code_type": "CORNER_SIZE", "keep_top_k": 0}, {}),
        ({"code_type": "CORNER", "variance_encoded_in_target": True, "background_label_id": 3}, {"nms_threshold": 0}),
        ({"confidence_threshold": -1, "keep_top_k": 50}, {"top_k": 0}),
        ({"confidence_threshold": 0.5, "keep_top_k": 500}, {"top_k": 1}),
    ],
)
def test_by_loops(options, nms, twin):
    options, nms = {**DEFAULTS, **options}, {**NMS, **nms}
    bottoms = random_bottoms(3, 3, 25, 4, options["share_location"])
    layer = layer_for(options, nms, bottoms)
    if twin:
        with pure_torch():
            top = layer(*map(torch.from_numpy, bottoms))
    else:
        top = layer(*map(torch.from_numpy, bottoms))
    np.testing.assert_allclose(top[0, 0].numpy(), rows_by_loops(bottoms, options, nms), rtol=1e-4, atol=1e-4)


def test_boxes_without_an_area_do_not_suppress():
    prior = np.tile(np.float32([0.2, 0.2, 0.2, 0.4]), 3)
    prior = np.stack([prior, np.ones(12, np.float32)])[None]
    scores = np.float32([[0.1, 0.9, 0.1, 0.8, 0.1, 0.7]])
    bottoms = (np.zeros((1, 12), np.float32), scores, prior)
    layer = layer_for({**DEFAULTS, "num_classes": 2, "code_type": "CORNER"}, NMS, bottoms)
    assert layer(*map(torch.from_numpy, bottoms))[0, 0, :, 2].tolist() == pytest.approx([0.9, 0.8, 0.7])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_very_small_boxes(dtype):
    near, far = 0.5 + np.arange(4) * 1e-6, 0.5 + np.arange(4) * 1e-6 + 4e-6
    prior = torch.tensor(np.stack([near, near, far, far], 1).ravel(), dtype=dtype)
    prior = torch.stack([prior, torch.ones(16, dtype=dtype)])[None]
    scores = torch.tensor([[0.1, 0.9, 0.1, 0.8, 0.1, 0.7, 0.1, 0.6]], dtype=dtype)
    options = {**DEFAULTS, "num_classes": 2, "code_type": "CORNER"}
    codes = torch.zeros(1, 16, dtype=dtype)
    bottoms, nms = (codes, scores, prior), {**NMS, "nms_threshold": 0.3}
    top = layer_for(options, nms, bottoms)(*bottoms)
    rows = rows_by_loops([bottom.numpy() for bottom in bottoms], options, nms)
    assert top[0, 0, :, 2].tolist() == pytest.approx(rows[:, 2].tolist())


@pytest.mark.parametrize(
    ("options", "nms"),
    [
        ({"num_classes": 0}, {}),
        ({"background_label_id": -1}, {}),
        ({}, {"nms_threshold": -0.1}),
        ({}, {"eta": 0}),
        ({}, {"eta": 1.5}),
    ],
)
def test_refuses_parameters(options, nms):
    with pytest.raises(CaffeError):
        layer_for({**DEFAULTS, **options}, {**NMS, **nms}, random_bottoms(0, 1, 5, 4, True))


def test_refuses_bottoms_that_do_not_fit():
    layer = layer_for(DEFAULTS, NMS, random_bottoms(0, 2, 5, 4, True))
    for shapes in ([(2, 20), (2, 20), (1, 2, 24)], [(2, 20), (1, 20), (1, 2, 20)], [(2, 20), (2, 20), (2, 20)]):
        with pytest.raises(CaffeError):
            layer.top_shapes(shapes)
    codes, scores, prior = map(torch.from_numpy, random_bottoms(0, 2, 5, 4, True))
    with pytest.raises(CaffeError, match="no width"):
        layer(codes, scores, torch.zeros_like(prior))


def test_says_that_it_writes_nothing():
    with pytest.warns(UserWarning, match="no files"):
        options = 'num_classes: 2 save_output_param { output_directory: "x" }'
        make_layer(f'type: "DetectionOutput" detection_output_param {{ {options} }}', (1, 4), (1, 2), (1, 2, 4))
