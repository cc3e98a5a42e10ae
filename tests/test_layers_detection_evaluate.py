"""DetectionEvaluate against recorded cases and against SSD's loops written out in NumPy."""

import numpy as np
import pytest
import ssd_by_loops
import torch
from dynamic_cases import check_top
from layer_cases import cases, make_layer
from test_layers_detection_output import fields

from caffe_bridge import CaffeError


def random_bottoms(seed, detections=30, truths=9, background=0):
    """Detections near the ground truth of two images, and one more image without any."""
    rng = np.random.default_rng(seed)
    labels = [label for label in range(4) if label != background]
    centre, size = rng.random((truths, 2)), rng.random((truths, 2)) * 0.4 + 0.1
    columns = [rng.integers(0, 2, truths), rng.choice(labels, truths), np.zeros(truths)]
    truth = np.stack([*columns, *(centre - size / 2).T, *(centre + size / 2).T, rng.random(truths) < 0.4], 1)
    truth = np.concatenate([truth, np.full((2, 8), -1.0)])
    near = truth[rng.integers(0, truths, detections)]
    boxes = near[:, 3:7] + rng.normal(size=(detections, 4)) * 0.05
    found = np.concatenate([near[:, :2], rng.random((detections, 1)), boxes], 1)
    found[::7, 0], found[3::11, 1], found[5::9] = 2, -1, -1
    return found.astype(np.float32)[None, None], truth.astype(np.float32)[None, None]


def layer_for(options, bottoms):
    text = f'type: "DetectionEvaluate" detection_evaluate_param {{ {fields(options)} }}'
    return make_layer(text, *(bottom.shape for bottom in bottoms))


def rows_by_loops(bottoms, options):
    return ssd_by_loops.detection_evaluate(*bottoms, ssd_by_loops.options(options))


@pytest.mark.parametrize("name", cases("DetectionEvaluate", folder="forks"))
def test_recorded(name):
    check_top(name)


@pytest.mark.parametrize("background", [0, 2])
@pytest.mark.parametrize("difficult", [True, False])
@pytest.mark.parametrize("threshold", [0.375, 0.75])
def test_by_loops(background, difficult, threshold):
    options = {
        "num_classes": 4,
        "background_label_id": background,
        "overlap_threshold": threshold,
        "evaluate_difficult_gt": difficult,
    }
    for seed in range(3):
        bottoms = random_bottoms(seed, background=background)
        top = layer_for(options, bottoms)(*map(torch.from_numpy, bottoms))
        np.testing.assert_allclose(top[0, 0].numpy(), rows_by_loops(bottoms, options))


def test_nothing_detected_or_known():
    found, truth = map(torch.from_numpy, random_bottoms(0))
    layer = layer_for({"num_classes": 4}, (found, truth))
    assert layer.top_shapes([found.shape, truth.shape]) == [(1, 1, 3 + 30, 5)]
    assert layer(found[:, :, :0], truth).shape == (1, 1, 3, 5)
    assert layer(torch.full_like(found, -1), truth).shape == (1, 1, 3, 5)
    top = layer(found, truth[:, :, :0])[0, 0]
    assert (top[:3, 2] == 0).all() and (top[3:, 4] == 1).all()


def test_sizes_of_images_make_overlaps_those_of_pixels(tmp_path):
    (tmp_path / "sizes.txt").write_text("a 10 20\nb 100 200\n")
    text = f'num_classes: 2 overlap_threshold: 0.7 name_size_file: "{tmp_path}/sizes.txt"'
    layer = make_layer(f'type: "DetectionEvaluate" detection_evaluate_param {{ {text} }}', (1, 1, 2, 7), (1, 1, 2, 8))
    box, other = [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.3]
    found = torch.tensor([[0, 1, 0.9, *other], [1, 1, 0.8, *other]])[None, None]
    truth = torch.tensor([[0, 1, 0, *box, 0], [1, 1, 0, *box, 0]])[None, None]
    # 11 x 4 of 11 x 6 pixels is 0.67, too little; 101 x 31 of 101 x 51 is 0.61.
    assert layer(found, truth)[0, 0, 1:, 3].tolist() == [0, 0]
    wide = torch.tensor([[0, 1, 0.9, 0, 0, 0.5, 0.42], [1, 1, 0.8, 0, 0, 0.5, 0.35]])[None, None]
    # 11 x 5.2 of 11 x 6 pixels is 0.87; 101 x 36 of 101 x 51 is 0.706, but 0.7 in fractions of the image.
    assert layer(wide, truth)[0, 0, 1:, 3].tolist() == [1, 1]
    assert layer.seen == 0


def test_refuses(tmp_path):
    bottoms = random_bottoms(0)
    for options in ({"num_classes": 0}, {"num_classes": 2, "overlap_threshold": 0}):
        with pytest.raises(CaffeError):
            layer_for(options, bottoms)
    with pytest.raises(CaffeError, match="name_size_file"):
        layer_for({"num_classes": 2, "name_size_file": f'"{tmp_path}/none"'}, bottoms)
    layer = layer_for({"num_classes": 4, "background_label_id": 1}, bottoms)
    with pytest.raises(CaffeError, match="background label 1"):
        layer(*map(torch.from_numpy, bottoms))
    with pytest.raises(CaffeError, match="takes detections"):
        layer.top_shapes([(1, 1, 5, 6), (1, 1, 5, 8)])
