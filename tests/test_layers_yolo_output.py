"""YOLO's output layers against recorded cases and against loops in NumPy."""

import numpy as np
import pytest
import torch
from dynamic_cases import check_top
from layer_cases import cases, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("YoloDetectionOutput", "Yolov3DetectionOutput", folder="forks"))
def test_recorded(name):
    check_top(name)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def iou(a, b):
    sides = [
        min(a[k] + a[k + 2] / 2, b[k] + b[k + 2] / 2) - max(a[k] - a[k + 2] / 2, b[k] - b[k + 2] / 2) for k in (0, 1)
    ]
    both = sides[0] * sides[1] if min(sides) >= 0 else 0
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def decoded(blob, anchors):
    """(image, cell row, cell column, anchor) by loops: box, object, raw classes; anchors in cells."""
    n, channels, height, width = blob.shape
    each = channels // len(anchors)
    for b, i, j, a in np.ndindex(n, height, width, len(anchors)):
        v = blob[b, a * each : (a + 1) * each, i, j].astype(np.float64)
        box = ((j + sigmoid(v[0])) / width, (i + sigmoid(v[1])) / height)
        size = (np.exp(v[2]) * anchors[a][0] / width, np.exp(v[3]) * anchors[a][1] / height)
        yield (*box, *size), sigmoid(v[4]), v[5:]


def rows_by_loops(found, threshold):
    found = sorted(found, key=lambda row: -row[0])
    kept = []
    for score, label, box in found:
        if all(iou(box, other[2]) < threshold for other in kept):
            kept.append((score, label, box))
    corners = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for _, _, (x, y, w, h) in kept]
    return np.array([(0, label + 1, score, *box) for (score, label, _), box in zip(kept, corners)])


@pytest.mark.parametrize("sides", [(4,), (3, 5)])
def test_yolo_v2_by_loops(sides):
    rng = np.random.default_rng(1)
    anchors = [(1.5, 2.0), (3.0, 1.0), (0.5, 0.6)]
    bottoms = [rng.normal(size=(2, 24, side, side)).astype(np.float32) for side in sides]
    biases = " ".join(f"biases: {value}" for pair in anchors for value in pair)
    fields = f"num_classes: 3 num_box: 3 confidence_threshold: 0.25 nms_threshold: 0.4 {biases}"
    text = f'type: "YoloDetectionOutput" yolo_detection_output_param {{ {fields} }}'
    layer = make_layer(text, *(bottom.shape for bottom in bottoms))
    found = []
    for bottom in bottoms:
        for box, seen, classes in decoded(bottom, anchors):
            prob = np.exp(classes - classes.max())
            prob /= prob.sum()
            if seen * prob.max() >= 0.25:
                found.append((seen * prob.max(), int(prob.argmax()), box))
    top = layer(*map(torch.from_numpy, bottoms))[0, 0].numpy()
    np.testing.assert_allclose(top, rows_by_loops(found, 0.4), rtol=1e-4, atol=1e-5)


def test_yolo_v3_by_loops():
    rng = np.random.default_rng(2)
    biases = [(20, 40), (50, 30), (90, 90), (10, 12)]
    mask, scales = [2, 1, 3, 0], [32, 16]
    bottoms = [rng.normal(size=shape).astype(np.float32) for shape in ((2, 14, 2, 3), (2, 14, 4, 6))]
    words = [f"biases: {v}" for pair in biases for v in pair] + [f"mask: {m}" for m in mask]
    words += [f"anchors_scale: {s}" for s in scales]
    fields = "num_classes: 2 num_box: 2 confidence_threshold: 0.4 nms_threshold: 0.5 mask_group_num: 2 " + " ".join(
        words
    )
    text = f'type: "Yolov3DetectionOutput" yolov3_detection_output_param {{ {fields} }}'
    layer = make_layer(text, *(bottom.shape for bottom in bottoms))
    found = []
    for t, bottom in enumerate(bottoms):
        anchors = [np.array(biases[mask[2 * t + n]]) / scales[t] for n in range(2)]
        for box, seen, classes in decoded(bottom, anchors):
            found += [(s, k, box) for k, s in enumerate(seen * sigmoid(classes)) if s > 0.4]
    top = layer(*map(torch.from_numpy, bottoms))[0, 0].numpy()
    np.testing.assert_allclose(top, rows_by_loops(found, 0.5), rtol=1e-4, atol=1e-5)


V3 = "mask_group_num: 1 num_classes: 2 num_box: 1 biases: 1 biases: 2 anchors_scale: 8"


@pytest.mark.parametrize(
    ("kind", "fields", "shape"),
    [
        ("Yolo", "biases: 1 biases: 2 num_box: 1", (1, 25, 3, 3)),
        ("Yolo", "num_classes: 2 num_box: 2 biases: 1 biases: 2", (1, 14, 3, 3)),
        ("Yolo", "num_classes: 2 num_box: 1 biases: 1 biases: 2", (1, 8, 3, 3)),
        ("Yolo", "num_classes: 2 num_box: 1 biases: 1 biases: 2", (1, 7, 3, 4)),
        ("Yolov3", "num_classes: 2 num_box: 1 biases: 1 biases: 2 mask: 0 anchors_scale: 8", (1, 7, 3, 3)),
        ("Yolov3", V3, (1, 7, 3, 3)),
        ("Yolov3", f"{V3} mask: 1", (1, 7, 3, 3)),
        ("Yolov3", f"{V3} mask: 0 gaussian_box: true", (1, 7, 3, 3)),
        ("Yolov3", f"{V3} mask: 0", (1, 8, 3, 3)),
    ],
)
def test_refuses(kind, fields, shape):
    text = f'type: "{kind}DetectionOutput" {kind.lower()}_detection_output_param {{ {fields} }}'
    with pytest.raises(CaffeError):
        make_layer(text, shape).top_shapes([shape])
