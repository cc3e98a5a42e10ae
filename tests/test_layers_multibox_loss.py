"""MultiBoxLoss against recorded cases and against SSD's loops written out in NumPy."""

import numpy as np
import pytest
import ssd_by_loops
import torch
from layer_cases import cases, check_case, make_layer
from test_layers_detection_output import fields, random_bottoms

from caffe_bridge import CaffeError
from caffe_bridge.config import cfg

DEFAULTS = {
    "loc_loss_type": "SMOOTH_L1",
    "conf_loss_type": "SOFTMAX",
    "loc_weight": 1.0,
    "num_classes": 4,
    "share_location": True,
    "match_type": "PER_PREDICTION",
    "overlap_threshold": 0.375,
    "use_prior_for_matching": True,
    "background_label_id": 0,
    "use_difficult_gt": True,
    "neg_pos_ratio": 3.0,
    "neg_overlap": 0.5,
    "code_type": "CENTER_SIZE",
    "encode_variance_in_target": False,
    "map_object_to_agnostic": False,
    "ignore_cross_boundary_bbox": False,
    "bp_inside": False,
    "mining_type": "MAX_NEGATIVE",
    "sample_size": 8,
    "use_prior_for_nms": False,
}


def random_truth(seed, images, classes, background, count=7):
    """Rows for all but the last image, two of them of image -1 and some difficult."""
    rng = np.random.default_rng(seed)
    centre, size = rng.random((count, 2)), rng.random((count, 2)) * 0.5 + 0.1
    image = rng.integers(0, images - 1, count)
    image[[1, 4]] = -1
    label = rng.choice([c for c in range(classes) if c != background], count)
    columns = [image, label, np.zeros(count), *(centre - size / 2).T, *(centre + size / 2).T, rng.random(count) < 0.4]
    return np.stack(columns, 1).astype(np.float32)[None, None]


def layer_for(options, bottoms, nms="", normalization="VALID", extra=""):
    text = (
        f'type: "MultiBoxLoss" {extra} loss_param {{ normalization: {normalization} }} '
        f"multibox_loss_param {{ {fields(options)} {nms} }}"
    )
    return make_layer(text, *(bottom.shape for bottom in bottoms), phase="TRAIN")


def run(layer, bottoms):
    tensors = [torch.from_numpy(bottom) for bottom in bottoms]
    codes, scores = (tensor.requires_grad_() for tensor in tensors[:2])
    loss = layer(*tensors)
    if loss.requires_grad:
        loss.backward()
    return loss.item(), *(np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in (codes, scores))


def loss_by_loops(bottoms, options, normalization="VALID", nms_threshold=None, top_k=0):
    settings = {"normalization": normalization, "nms_threshold": nms_threshold, "top_k": top_k}
    return ssd_by_loops.multibox_loss(*bottoms, ssd_by_loops.options(options, **settings))


@pytest.mark.parametrize("name", cases("MultiBoxLoss", folder="forks"))
def test_recorded(name):
    check_case(name)


@pytest.mark.parametrize("normalization", ["FULL", "VALID", "BATCH_SIZE", "NONE"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mining_type": "HARD_EXAMPLE", "loc_loss_type": "L2", "encode_variance_in_target": True},
        {"conf_loss_type": "LOGISTIC", "background_label_id": 2, "match_type": "BIPARTITE", "loc_weight": 2.0},
        {"conf_loss_type": "LOGISTIC", "mining_type": "NONE", "background_label_id": 1, "code_type": "CORNER"},
        {"mining_type": "NONE", "share_location": False, "code_type": "CORNER_SIZE", "use_difficult_gt": False},
        {"mining_type": "NONE", "share_location": False, "use_prior_for_matching": False, "overlap_threshold": 0.125},
        {"use_prior_for_matching": False, "bp_inside": True, "ignore_cross_boundary_bbox": True, "code_type": "CORNER"},
        {"num_classes": 2, "map_object_to_agnostic": True, "neg_overlap": 0.25, "neg_pos_ratio": 1.5},
        {"mining_type": "HARD_EXAMPLE", "bp_inside": True, "ignore_cross_boundary_bbox": True, "sample_size": 3},
    ],
)
def test_by_loops(options, normalization):
    options = {**DEFAULTS, **options}
    bottoms = random_bottoms(5, 3, 20, options["num_classes"], options["share_location"])
    bottoms = (*bottoms, random_truth(6, 3, options["num_classes"], options["background_label_id"]))
    got = run(layer_for(options, bottoms, normalization=normalization), bottoms)
    for mine, wanted in zip(got, loss_by_loops(bottoms, options, normalization), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mining", ["MAX_NEGATIVE", "HARD_EXAMPLE"])
@pytest.mark.parametrize("use_prior", [False, True])
@pytest.mark.parametrize(
    ("nms", "threshold", "top_k"),
    [
        ("nms_threshold: 0.375 top_k: 12", 0.375, 12),
        ("nms_threshold: 0.375 top_k: -1", 0.375, -1),
        ("nms_threshold: 0.375", 0.375, 0),
        ("nms_threshold: 0 top_k: 1", 0, 1),
    ],
)
def test_suppression_among_the_mined(mining, use_prior, nms, threshold, top_k):
    options = {**DEFAULTS, "mining_type": mining, "use_prior_for_nms": use_prior}
    bottoms = (*random_bottoms(7, 3, 30, 4, True), random_truth(8, 3, 4, 0))
    got = run(layer_for(options, bottoms, nms=f"nms_param {{ {nms} }}"), bottoms)
    for mine, wanted in zip(got, loss_by_loops(bottoms, options, nms_threshold=threshold, top_k=top_k), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-5)


def test_gradient_of_fixed_matches_is_the_derivative(monkeypatch):
    monkeypatch.setitem(cfg.TRAIN, "EXACT_GRADIENTS", True)
    bottoms = (*random_bottoms(5, 2, 8, 3, True), random_truth(6, 2, 3, 0))
    options = {**DEFAULTS, "num_classes": 3, "mining_type": "NONE", "encode_variance_in_target": True}
    layer = layer_for(options, bottoms)
    codes, scores, prior, truth = (torch.from_numpy(bottom).double() for bottom in bottoms)
    assert torch.autograd.gradcheck(
        lambda a, b: layer(a, b, prior, truth), (codes.requires_grad_(), scores.requires_grad_())
    )


def test_propagate_down_drops_parts_of_the_loss():
    bottoms = (*random_bottoms(5, 3, 20, 4, True), random_truth(6, 3, 4, 0))
    whole = run(layer_for(DEFAULTS, bottoms), bottoms)[0]
    parts = []
    for down in ((True, False), (False, True)):
        extra = " ".join(f"propagate_down: {str(flag).lower()}" for flag in (*down, False, False))
        loss, *grads = run(layer_for(DEFAULTS, bottoms, extra=extra), bottoms)
        assert [grad.any() for grad in grads] == list(down)
        parts.append(loss)
    assert sum(parts) == pytest.approx(whole)


def test_only_predictions_are_learned_by_default():
    bottoms = (*random_bottoms(5, 3, 20, 4, True), random_truth(6, 3, 4, 0))
    assert list(layer_for(DEFAULTS, bottoms).param.propagate_down) == [True, True, False, False]


@pytest.mark.parametrize("count", [0, 1])
def test_without_ground_truth(count):
    truth = np.full((1, 1, count, 8), -1, np.float32)
    bottoms = (*random_bottoms(5, 2, 6, 4, True), truth)
    assert run(layer_for(DEFAULTS, bottoms), bottoms)[0] == 0
    loss, codes, scores = run(layer_for({**DEFAULTS, "mining_type": "NONE"}, bottoms), bottoms)
    assert loss > 0 and not codes.any() and scores.any()


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 0},
        {"share_location": False},
        {"background_label_id": 4},
        {"map_object_to_agnostic": True},
        {"mining_type": "HARD_EXAMPLE", "sample_size": 0},
        {"do_neg_mining": False},
    ],
)
def test_refuses_parameters(options):
    bottoms = (*random_bottoms(5, 2, 6, 4, True), random_truth(6, 2, 4, 0))
    with pytest.raises(CaffeError):
        layer_for({**DEFAULTS, **options}, bottoms)


@pytest.mark.parametrize(("column", "value", "match"), [(1, 0, "background"), (1, 9, "not a class"), (0, 5, "batch")])
def test_refuses_ground_truth(column, value, match):
    codes, scores, prior = random_bottoms(5, 2, 6, 4, True)
    truth = np.zeros((1, 1, 1, 8), np.float32)
    truth[0, 0, 0, 1] = 1
    truth[0, 0, 0, 3:7] = prior[0, 0, :4]
    truth[0, 0, 0, column] = value
    bottoms = (codes, scores, prior, truth)
    with pytest.raises(CaffeError, match=match):
        run(layer_for(DEFAULTS, bottoms), bottoms)
