import numpy as np
import pytest
import torch
from layer_cases import cases, check_case, make_layer

from caffe_bridge import CaffeError


@pytest.mark.parametrize("name", cases("BoxAnnotatorOHEM", folder="forks"))
def test_recorded(name):
    check_case(name)


def annotate_by_loops(rois, loss, labels, weights, keep, ignored):
    left = dict.fromkeys(rois[:, 0], keep)
    kept_labels, kept_weights = np.full(len(rois), ignored), np.zeros_like(weights)
    for i in sorted(range(len(rois)), key=lambda i: -loss[i, 0]):
        if left[rois[i, 0]]:
            left[rois[i, 0]] -= 1
            kept_labels[i], kept_weights[i] = labels[i, 0], weights[i]
    return kept_labels, kept_weights


@pytest.mark.parametrize("trailing", [(), (1, 1)])
@pytest.mark.parametrize("keep", [1, 3, 50])
def test_by_loops(keep, trailing):
    rng = np.random.default_rng(0)
    rois = np.concatenate([rng.integers(0, 4, (20, 1)), rng.random((20, 4))], 1)
    loss, labels, weights = rng.random((20, 1)).round(1), rng.integers(0, 5, (20, 1)), rng.random((20, 8))
    wanted_labels, wanted_weights = annotate_by_loops(rois, loss, labels, weights, keep, 255.0)
    bottoms = [torch.from_numpy(values).view(*values.shape, *trailing) for values in (rois, loss, labels, weights)]
    fields = f"roi_per_img: {keep} ignore_label: 255"
    layer = make_layer(
        f'type: "BoxAnnotatorOHEM" box_annotator_ohem_param {{ {fields} }}', *(tuple(b.shape) for b in bottoms)
    )
    tops = layer(*bottoms)
    assert [tuple(top.shape) for top in tops] == layer.top_shapes([tuple(b.shape) for b in bottoms])
    np.testing.assert_array_equal(tops[0].flatten(), wanted_labels)
    np.testing.assert_array_equal(tops[1].flatten(1), wanted_weights)


@pytest.mark.parametrize(
    ("keep", "shapes"),
    [
        (0, [(2, 5), (2, 1), (2, 1), (2, 8)]),
        (1, [(2, 4), (2, 1), (2, 1), (2, 8)]),
        (1, [(2, 5), (3, 1), (2, 1), (2, 8)]),
        (1, [(2, 5, 2, 1), (2, 1, 2, 1), (2, 1, 2, 1), (2, 8, 2, 1)]),
    ],
)
def test_refuses(keep, shapes):
    with pytest.raises(CaffeError):
        text = f'type: "BoxAnnotatorOHEM" box_annotator_ohem_param {{ roi_per_img: {keep} }}'
        make_layer(text, *shapes).top_shapes(shapes)
