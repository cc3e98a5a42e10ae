"""The C++ Proposal layer against its loops in NumPy."""

import numpy as np
import pytest
import torch
from layer_cases import make_layer

from caffe_bridge import CaffeError

FIELDS = "feat_stride: 8 base_size: 15 min_size: 6 ratio: 0.5 ratio: 1.3 scale: 2 scale: 4"


def half_up(x):
    return np.floor(x + 0.5)


def propose_by_loops(scores, deltas, info, before, after, threshold):
    """Rows (score, box) of one image, box by box."""
    anchors = []
    for ratio in (0.5, 1.3):
        width = half_up(np.sqrt(15 * 15 / ratio))
        height = half_up(width * ratio)
        for scale in (2, 4):
            w, h = (width * scale - 1) / 2, (height * scale - 1) / 2
            anchors.append((7 - w, 7 - h, 7 + w, 7 + h))
    rows = []
    for y, x, a in np.ndindex(*scores.shape[2:], 4):
        x1, y1, x2, y2 = np.array(anchors[a]) + np.array([x, y, x, y]) * 8
        w, h = x2 - x1 + 1, y2 - y1 + 1
        dx, dy, dw, dh = deltas[0, 4 * a : 4 * a + 4, y, x]
        cx, cy, w, h = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h, np.exp(dw) * w, np.exp(dh) * h
        box = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        box = np.clip(box, 0, np.array([info[1], info[0]] * 2) - 1)
        large = box[2] - box[0] + 1 >= 6 * info[-1] and box[3] - box[1] + 1 >= 6 * info[2]
        rows.append((scores[0, 4 + a, y, x] * large, box))
    rows = sorted(rows, key=lambda row: -row[0])[:before]
    kept = []
    for score, box in rows:
        if all(iou(box, other) <= threshold for _, other in kept):
            kept.append((score, box))
    return kept[:after]


def iou(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    both = max(w, 0) * max(h, 0)
    return both / (sum(areas) - both)


@pytest.mark.parametrize("info", [(60.0, 90.0, 1.5), (60.0, 90.0, 3.0, 1.5)])
@pytest.mark.parametrize(("before", "after", "threshold"), [(6000, 300, 0.7), (40, 7, 0.3), (500, 20, 0.5)])
def test_by_loops(info, before, after, threshold):
    rng = np.random.default_rng(0)
    scores, deltas = rng.random((1, 8, 5, 7)), rng.normal(size=(1, 16, 5, 7)) * 0.4
    fields = f"{FIELDS} pre_nms_topn: {before} post_nms_topn: {after} nms_thresh: {threshold}"
    text = f'type: "Proposal" top: "rois" top: "scores" proposal_param {{ {fields} }}'
    layer = make_layer(text, (1, 8, 5, 7), (1, 16, 5, 7), (1, len(info)))
    rois, kept = layer(torch.from_numpy(scores), torch.from_numpy(deltas), torch.tensor([info], dtype=torch.float64))
    wanted = propose_by_loops(scores, deltas, info, before, after, float(np.float32(threshold)))
    np.testing.assert_allclose(kept.numpy(), [score for score, _ in wanted])
    np.testing.assert_allclose(rois[:, 1:].numpy(), [box for _, box in wanted], rtol=1e-6, atol=1e-6)
    assert not rois[:, 0].any()
    assert layer.top_shapes([(1, 8, 5, 7), (1, 16, 5, 7), (1, 3)]) == [(after, 5), (after,)]


@pytest.mark.parametrize(
    ("fields", "shapes"),
    [
        ("ratio: 1", [(1, 2, 3, 3), (1, 4, 3, 3), (1, 3)]),
        ("ratio: 0 scale: 1", [(1, 2, 3, 3), (1, 4, 3, 3), (1, 3)]),
        ("ratio: 1 scale: 8 feat_stride: 0", [(1, 2, 3, 3), (1, 4, 3, 3), (1, 3)]),
        ("ratio: 1 scale: 8", [(2, 2, 3, 3), (2, 4, 3, 3), (2, 3)]),
        ("ratio: 1 scale: 8", [(1, 2, 3, 3), (1, 4, 3, 2), (1, 3)]),
        ("ratio: 1 scale: 8", [(1, 2, 3, 3), (1, 4, 3, 3), (1, 2)]),
    ],
)
def test_refuses(fields, shapes):
    with pytest.raises(CaffeError):
        make_layer(f'type: "Proposal" proposal_param {{ {fields} }}', *shapes).top_shapes(shapes)
