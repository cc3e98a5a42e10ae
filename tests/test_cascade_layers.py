"""MNC's Python layers against what the original computed (reference/MNC.md, sections 9 to 14)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_bridge import boxes, registry, schema
from caffe_bridge.config import cfg
from caffe_bridge.errors import LayerError
from caffe_bridge.layers import proposal
from caffe_bridge.layers.base import Layer

MNC = Path(__file__).parent / "reference" / "mnc"
CLASSES = {
    "proposal": "ProposalLayer",
    "anchor_target": "AnchorTargetLayer",
    "proposal_target": "ProposalTargetLayer",
    "mask_layer": "MaskLayer",
    "stage_bridge": "StageBridgeLayer",
}
BOTTOMS = {
    "proposal": ["prob", "deltas", "im_info"],
    "anchor_target": ["score", "gt_boxes", "im_info", "fg_inds", "bg_inds"],
    "proposal_target": ["rois", "gt_boxes", "im_info", "gt_masks", "mask_info", "proposal_index"],
    "mask_layer": ["mask_pred", "gt_masks", "gt_masks_info"],
    "stage_bridge": ["rois", "bbox_pred", "scores", "gt_boxes", "gt_masks", "im_info", "mask_info"],
}
ROI_TARGETS = ["bbox_targets", "bbox_inside_weights", "bbox_outside_weights"]
TOPS = {
    "proposal": ["rois", "proposal_index"],
    "anchor_target": ["labels", *ROI_TARGETS],
    "proposal_target": [
        *["rois", "labels", *ROI_TARGETS],
        *["mask_targets", "mask_weight", "gt_masks_info", "fg_inds", "bg_inds"],
    ],
    "mask_layer": ["mask_proposal", "mask_proposal_label"],
    "stage_bridge": ["rois", "labels", "mask_targets", "mask_weight", "gt_mask_info", *ROI_TARGETS],
}
GRADIENTS = {"proposal": ["deltas"], "proposal_target": ["rois"], "mask_layer": ["mask_pred"]}
GRADIENTS["stage_bridge"] = ["rois", "bbox_pred"]


@contextmanager
def settings(**values: Any) -> Iterator[None]:
    """`cfg` with some values changed; TRAIN__X stands for TRAIN.X."""
    places = [(cfg[name.split("__")[0]] if "__" in name else cfg, name.split("__")[-1]) for name in values]
    old = [section[key] for section, key in places]
    try:
        for (section, key), value in zip(places, values.values()):
            section[key] = value
        yield
    finally:
        for (section, key), value in zip(places, old):
            section[key] = value


def recorded(*operations: str) -> list[str]:
    found = {operation: sorted(path.stem for path in MNC.glob(f"{operation}__*.npz")) for operation in operations}
    assert all(found.values()), found
    return [case for cases in found.values() for case in cases]


def load(case: str) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
    data = dict(np.load(MNC / f"{case}.npz"))
    parameters = json.loads(str(data.pop("param_json")))
    operation = case.split("__")[0]
    if operation == "anchor_target":
        data["in_score"] = np.zeros((1, 18, parameters["feat_h"], parameters["feat_w"]), np.float32)
    return operation, data, parameters


def make(operation: str, shapes: list[tuple[int, ...]], tops: int, phase: str = "TRAIN", options: Any = None) -> Layer:
    param = schema.LayerParameter()
    param.top.extend(f"top{number}" for number in range(tops))
    param.python_param.param_str = json.dumps(options or {})
    cls = registry.python_layer_class(f"pylayer.{operation.removesuffix('_layer')}_layer", CLASSES[operation])
    return cls(param, shapes, phase)


def build(operation: str, data: dict[str, np.ndarray], parameters: dict[str, Any]) -> tuple[Layer, dict, list[str]]:
    """The layer of a recorded case, its bottoms (those with a recorded gradient are leaves) and its tops' names."""
    inputs = {
        name: torch.from_numpy(data[f"in_{name}"]).requires_grad_(f"din_{name}" in data)
        for name in BOTTOMS[operation]
        if f"in_{name}" in data
    }
    tops = [name for name in TOPS[operation] if f"out_{name}" in data]
    shapes = [tuple(value.shape) for value in inputs.values()]
    return make(operation, shapes, len(tops), parameters.get("phase", "TRAIN"), parameters.get("param")), inputs, tops


def outputs_of(layer: Layer, *bottoms: torch.Tensor) -> tuple[torch.Tensor, ...]:
    tops = layer(*bottoms)
    return tops if isinstance(tops, tuple) else (tops,)


def assert_close(got: torch.Tensor, want: np.ndarray, tolerance: float = 1e-5, floor: float = 1.0) -> None:
    assert tuple(got.shape) == want.shape
    if want.size:
        got = got.detach().numpy().astype(np.float64)
        assert np.abs(got - want).max() <= tolerance * max(floor, np.abs(want).max())


@pytest.mark.parametrize("case", recorded(*CLASSES))
def test_layer_matches_the_original(case: str) -> None:
    operation, data, parameters = load(case)
    changes = {key.replace(".", "__"): value for key, value in parameters.get("cfg", {}).items()}
    with settings(**changes):
        layer, inputs, names = build(operation, data, parameters)
        np.random.seed(parameters["seed"])
        tops = outputs_of(layer, *inputs.values())
        if "out_rng_next" in data:
            assert np.random.randint(0, 2**31 - 1, 3).tolist() == data["out_rng_next"].tolist()
        assert len(tops) == len(names) == len(layer.top_shapes([tuple(value.shape) for value in inputs.values()]))
        for name, top in zip(names, tops):
            assert_close(top, data[f"out_{name}"])
        gradients = [name for name in GRADIENTS.get(operation, []) if f"din_{name}" in data]
        if gradients:
            tops[0].backward(torch.from_numpy(data[f"dout_{names[0]}"]))
        for name in gradients:
            assert_close(inputs[name].grad, data[f"din_{name}"], 1e-4, 1e-6)


@pytest.mark.parametrize("case", recorded("proposal"))
def test_proposals_come_from_the_recorded_anchors(case: str) -> None:
    _, data, parameters = load(case)
    changes = {key.replace(".", "__"): value for key, value in parameters["cfg"].items()}
    inputs = [torch.from_numpy(data[f"in_{name}"]) for name in BOTTOMS["proposal"]]
    with settings(**changes):
        layer = make("proposal", [tuple(i.shape) for i in inputs], 2, parameters["phase"], parameters["param"])
        assert layer(*inputs)[1][0].int().tolist() == data["state_index"].tolist()


def small_rpn(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    scores, deltas = torch.rand(1, 18, 6, 7, dtype=dtype), 0.2 * torch.randn(1, 36, 6, 7, dtype=dtype)
    return scores, deltas, torch.tensor([[96.0, 112.0, 1.5]], dtype=dtype)


def test_exact_gradient_of_the_proposals() -> None:
    scores, deltas, im_info = small_rpn(torch.float64)
    shapes = [(1, 18, 6, 7), (1, 36, 6, 7), (1, 3)]
    free = make("proposal", shapes, 2, "TRAIN", {"feat_stride": 16})
    with settings(TRAIN__EXACT_GRADIENTS=True, TRAIN__RPN_POST_NMS_TOP_N=12):
        assert torch.autograd.gradcheck(lambda d: free(scores, d, im_info)[0], deltas.requires_grad_(), fast_mode=True)
        limited = make("proposal", shapes, 2, "TRAIN", {"feat_stride": 16, "use_clip": 1, "clip_base": 8})
        assert_limited(limited(scores, deltas, im_info)[0], free(scores, deltas, im_info)[0], deltas, 1 / 8)


def assert_limited(got: torch.Tensor, free: torch.Tensor, source: torch.Tensor, limit: float) -> None:
    """Two tops of equal value, one of a layer with a limit: its gradient is the other's, clamped."""
    assert torch.equal(got, free)
    top = 0.01 * torch.randn(got.shape, dtype=got.dtype)
    gradients = [torch.autograd.grad(value, source, top)[0] for value in (got, free)]
    assert (gradients[1].abs() > limit).any() and ((gradients[1] != 0) & (gradients[1].abs() < limit)).any()
    assert torch.equal(gradients[0], gradients[1].clamp(-limit, limit))


def test_exact_and_published_proposals_agree_in_value() -> None:
    bottoms = small_rpn()
    layer = make("proposal", [tuple(b.shape) for b in bottoms], 1, "TEST", {"feat_stride": 16})
    published = layer(*bottoms)[0]
    with settings(TRAIN__EXACT_GRADIENTS=True):
        assert torch.equal(layer(*bottoms)[0], published)


def test_equal_scores_keep_the_order_of_the_anchors() -> None:
    scores, deltas, im_info = small_rpn()
    layer = make("proposal", [(1, 18, 6, 7), (1, 36, 6, 7), (1, 3)], 2, "TEST", {"feat_stride": 16})
    with settings(TEST__RPN_NMS_THRESH=1.0, TEST__RPN_PRE_NMS_TOP_N=50):
        index = layer(torch.full_like(scores, 0.5), deltas, im_info)[1][0]
    assert index.tolist() == sorted(index.tolist())


def test_proposals_suppress_at_the_threshold_without_gpu_nms() -> None:
    pair = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 19.0]])
    scores = torch.tensor([0.9, 0.8])
    with settings(TEST__RPN_NMS_THRESH=0.5):
        assert len(proposal.select(pair, scores, 1, "TEST")) == 2
        with settings(USE_GPU_NMS=False):
            assert proposal.select(pair, scores, 1, "TEST").tolist() == [0]


def test_the_best_box_stays_when_all_are_too_small() -> None:
    scores, deltas, im_info = small_rpn()
    layer = make("proposal", [(1, 18, 6, 7), (1, 36, 6, 7), (1, 3)], 2, "TEST", {"feat_stride": 16})
    with settings(TEST__RPN_MIN_SIZE=500):
        rois, index = layer(scores, deltas, im_info)
    assert rois.shape == (1, 5)
    assert index.item() == proposal.per_anchor(scores[:, 9:], 1).argmax()


def test_limits_of_zero_keep_everything() -> None:
    bottoms = small_rpn()
    layer = make("proposal", [tuple(b.shape) for b in bottoms], 1, "TEST", {"feat_stride": 16})
    with settings(
        TEST__RPN_PRE_NMS_TOP_N=-1, TEST__RPN_POST_NMS_TOP_N=0, TEST__RPN_NMS_THRESH=1.0, TEST__RPN_MIN_SIZE=0
    ):
        assert len(layer(*bottoms)[0]) == 6 * 7 * 9


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s, d, i: (s * float("nan"), d, i), "NaN in the scores;"),
        (lambda s, d, i: (s, d * float("nan"), i), "NaN in the deltas;"),
        (lambda s, d, i: (s.repeat(2, 1, 1, 1), d, i), "one image"),
        (lambda s, d, i: (s, d[:, :32], i), "36 channels"),
        (lambda s, d, i: (s, d, i.repeat(2, 1)), "im_info of one image"),
        (lambda s, d, i: (s, d, i * 0), "height, width and scale"),
    ],
)
def test_proposal_errors(change: Any, message: str) -> None:
    layer = make("proposal", [(1, 18, 6, 7), (1, 36, 6, 7), (1, 3)], 1, "TEST", {"feat_stride": 16})
    with pytest.raises(LayerError, match=message):
        layer(*change(*small_rpn()))


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "lacks 'feat_stride'"),
        ({"feat_stride": 0}, "above 0"),
        ({"feat_stride": 16, "use_clip": 1, "clip_base": 0}, "'clip_base' is a number above 0"),
        ([1], "not a mapping"),
    ],
)
def test_options_are_checked(options: Any, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        make("proposal", [(1, 18, 6, 7), (1, 36, 6, 7), (1, 3)], 1, "TEST", options)


def test_anchor_targets_without_an_anchor_inside() -> None:
    layer = make("anchor_target", [(1, 18, 2, 2), (1, 5), (1, 3)], 4, options={"feat_stride": 16})
    bottoms = torch.zeros(1, 18, 2, 2), torch.tensor([[1.0, 1, 20, 20, 1]]), torch.tensor([[32.0, 32.0, 1.0]])
    with pytest.raises(LayerError, match="no anchor lies inside the image of 32 x 32"):
        layer(*bottoms)
    with pytest.raises(LayerError, match="no ground-truth box"):
        layer(bottoms[0], bottoms[1][:0], bottoms[2])


def test_anchor_numbers_outside_the_map_are_refused() -> None:
    layer = make("anchor_target", [(1, 18, 20, 20), (1, 5), (1, 3), (1,), (1,)], 4, options={"feat_stride": 16})
    gt, info = torch.tensor([[1.0, 1, 120, 120, 1]]), torch.tensor([[320.0, 320.0, 1.0]])
    with pytest.raises(LayerError, match="outside 0 to 3599"):
        layer(torch.zeros(1, 18, 20, 20), gt, info, torch.tensor([3600.0]), torch.tensor([5.0]))


def test_a_fourth_bottom_does_not_mix() -> None:
    """Faster R-CNN's net connects the image there."""
    gt, info = torch.tensor([[1.0, 1, 120, 120, 1]]), torch.tensor([[320.0, 320.0, 1.0]])
    layer = make("anchor_target", [(1, 18, 20, 20), (1, 5), (1, 3), (1, 3, 320, 320)], 4, options={"feat_stride": 16})
    labels = layer(torch.zeros(1, 18, 20, 20), gt, info, torch.zeros(1, 3, 320, 320))[0]
    assert (labels >= 0).sum() == 256


def sampled_case() -> tuple[Layer, list[torch.Tensor]]:
    _, data, parameters = load("proposal_target__all_kept")
    bottoms = [torch.from_numpy(data[f"in_{name}"]) for name in BOTTOMS["proposal_target"]]
    shapes = [tuple(bottom.shape) for bottom in bottoms]
    return make("proposal_target", shapes, 10, options=parameters["param"]), bottoms


def test_sampling_takes_numbers_for_lists() -> None:
    """py-faster-rcnn writes FG_FRACTION and the background thresholds as numbers."""
    layer, bottoms = sampled_case()
    lists = {"TRAIN__BG_FRACTION": [1.0], "TRAIN__BG_THRESH_LO": [0.1], "TRAIN__BG_THRESH_HI": [0.5]}
    with settings(TRAIN__FG_FRACTION=[0.25], **lists):
        np.random.seed(1)
        want = layer(*bottoms)
    with settings(TRAIN__FG_FRACTION=0.25, **{key: value[0] for key, value in lists.items()}):
        np.random.seed(1)
        for got, expected in zip(layer(*bottoms), want, strict=True):
            assert torch.equal(got, expected)


def test_a_roi_drawn_twice() -> None:
    """An overlap of exactly 0.5 is in the foreground's and the background's interval; the later copy counts."""
    gt = torch.tensor([[0.0, 0.0, 9.0, 19.0, 1.0]])
    rois = torch.tensor([[0.0, 0.0, 0.0, 9.0, 9.0]], requires_grad=True)
    layer = make("proposal_target", [(1, 5), (1, 5), (1, 3)], 5, options={"num_classes": 3})
    info = torch.tensor([[50.0, 50.0, 1.0]])
    for exact, want in ((False, 3.0), (True, 4.0)):
        with settings(TRAIN__EXACT_GRADIENTS=exact):
            sampled, labels, *_ = layer(rois, gt, info)
            assert labels.tolist() == [1.0, 1.0, 0.0]
            (gradient,) = torch.autograd.grad((sampled * torch.tensor([[1.0], [2.0], [3.0]])).sum(), rois)
            assert gradient.unique().tolist() == [want]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda b: b[0].index_fill_(1, torch.tensor([0]), 1), "batch index"),
        (lambda b: b[1].mul_(100), "classes of the ground truth"),
        (lambda b: b.__setitem__(1, b[1][:0]), "no ground-truth box"),
        (lambda b: b.__setitem__(3, b[3][:1]), "3 ground-truth boxes come with masks of shape"),
        (lambda b: b.__setitem__(5, b[5][:, :-1]), "32 RoIs come with 31 anchor numbers"),
    ],
)
def test_proposal_target_errors(change: Any, message: str) -> None:
    layer, bottoms = sampled_case()
    change(bottoms)
    with pytest.raises(LayerError, match=message):
        layer(*bottoms)


def test_intervals_of_different_lengths_are_refused() -> None:
    layer, bottoms = sampled_case()
    with settings(TRAIN__BG_FRACTION=[1.0]), pytest.raises(LayerError, match="different lengths"):
        layer(*bottoms)


@pytest.mark.parametrize("bottoms, tops, message", [(3, 8, "from 5 bottoms, 3 given"), (6, 7, "7 are named")])
def test_the_named_tops_decide_what_is_made(bottoms: int, tops: int, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        make("proposal_target", [(1, 5)] * bottoms, tops, options={"num_classes": 21})


def test_exact_mask_gradient_is_that_of_a_copy() -> None:
    operation, data, parameters = load("mask_layer__train")
    layer, inputs, _ = build(operation, data, parameters)
    top = torch.from_numpy(data["dout_mask_proposal"])
    with settings(TRAIN__EXACT_GRADIENTS=True):
        layer(*inputs.values())[0].backward(top)
    assert torch.equal(inputs["mask_pred"].grad, top.flatten(1))


def test_mask_layer_errors() -> None:
    operation, data, parameters = load("mask_layer__train")
    layer, inputs, _ = build(operation, data, parameters)
    predicted, masks, info = inputs.values()
    with pytest.raises(LayerError, match="441 values, not 400"):
        layer(predicted[:, :400], masks, info)
    with pytest.raises(LayerError, match="descriptions of shape"):
        layer(predicted, masks, info[:3])
    with pytest.raises(LayerError, match="outside 0 to 1"):
        layer(predicted, masks[:2], info.clamp(min=2))


def bridge(dtype: torch.dtype = torch.float64, case: str = "train_clip512") -> tuple[Layer, list[torch.Tensor]]:
    operation, data, parameters = load(f"stage_bridge__{case}")
    layer, inputs, _ = build(operation, data, parameters)
    return layer, [value.detach().to(dtype) for value in inputs.values()]


def test_exact_gradient_of_the_stage_bridge() -> None:
    free, (rois, outputs, *rest) = bridge(case="train_noclip")
    limited = make("stage_bridge", [(1, 5)] * 7, 8, options={"num_classes": 21, "use_clip": 1, "clip_base": 4})
    with settings(TRAIN__EXACT_GRADIENTS=True):
        refine = lambda r, o: free(r, o, *rest)[0]  # noqa: E731
        assert torch.autograd.gradcheck(refine, (rois.requires_grad_(), outputs.requires_grad_()), fast_mode=True)
        assert_limited(limited(rois, outputs, *rest)[0], refine(rois, outputs), outputs, 1 / 4)


def test_exact_gradient_of_the_stage_bridge_at_test_time() -> None:
    operation, data, parameters = load("stage_bridge__test")
    layer, inputs, _ = build(operation, data, parameters)
    rois, outputs, scores, info = (value.double() for value in inputs.values())
    assert not layer(rois.requires_grad_(), outputs, scores, info).requires_grad
    with settings(TRAIN__EXACT_GRADIENTS=True):
        refine = lambda r, o: layer(r, o, scores, info)  # noqa: E731
        assert torch.autograd.gradcheck(refine, (rois, outputs.requires_grad_()), fast_mode=True)


def test_stage_bridge_without_rois_gives_the_ground_truth() -> None:
    layer, (rois, outputs, scores, gt, masks, info, sizes) = bridge(torch.float32)
    tops = layer(rois[:0], outputs[:0], scores[:0], gt, masks, info, sizes)
    assert torch.equal(tops[0][:, 1:], boxes.clamp(gt[:, :4], info[0, :2]))
    assert torch.equal(tops[1], gt[:, 4])


def test_stage_bridge_errors() -> None:
    layer, bottoms = bridge(torch.float32)
    for position, change, message in (
        (1, lambda b: b[:, :80], "do not fit"),
        (1, lambda b: b * float("nan"), "NaN in the regression_outputs"),
        (2, lambda b: b / 0 * 0, "NaN in the scores"),
        (3, lambda b: b[:0], "no ground-truth box"),
    ):
        changed = list(bottoms)
        changed[position] = change(changed[position])
        with pytest.raises(LayerError, match=message):
            layer(*changed)
    with pytest.raises(LayerError, match="takes 4 bottoms and makes 1 top"):
        make("stage_bridge", [(1, 5)] * 7, 8, "TEST")


def test_gradients_flow_only_where_the_original_lets_them() -> None:
    layer, bottoms = bridge(torch.float32)
    assert [layer.allow_force_backward(number) for number in range(7)] == [True, True] + [False] * 5
    tops = layer(*(bottom.requires_grad_() for bottom in bottoms))
    assert [top.requires_grad for top in tops] == [True] + [False] * 7
