"""The operations of layers/functional: recorded cases, native kernels against twins, gradients, bad input."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from layer_cases import REFERENCE, cases, check_case, error, make_layer

from caffe_bridge import LayerError, native, schema, text_format
from caffe_bridge.config import cfg
from caffe_bridge.layers import functional as F
from caffe_bridge.registry import layer_class

MNC = REFERENCE / "mnc"
TOLERANCE = 1e-5
OPS = torch.ops.caffe_bridge
needs_native = pytest.mark.skipif(not native.load().loaded, reason="the extension is not built")


@pytest.fixture(params=[pytest.param("native", marks=needs_native), "pure"])
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    with F.pure_torch() if request.param == "pure" else contextlib.nullcontext():
        yield request.param


def recorded(op: str) -> list[str]:
    names = sorted(path.stem for path in MNC.glob(f"{op}__*.npz"))
    assert names
    return names


def load(name: str) -> tuple[dict[str, np.ndarray], dict]:
    case = dict(np.load(MNC / f"{name}.npz"))
    return case, json.loads(str(case.pop("param_json")))


def leaf(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy()).requires_grad_()


# Recorded from the original kernels.


@pytest.mark.parametrize("name", recorded("roi_warping"))
def test_roi_warping_recorded(name: str, kernels: str) -> None:
    """Samples outside the map may count as the fork's reads before the plane or as 0; the fork's are undefined."""
    case, p = load(name)
    features, rois = leaf(case["in_feat"]), leaf(case["in_rois"])
    top = F.roi_warping(features, rois, (p["pooled_h"], p["pooled_w"]), p["spatial_scale"])
    top.backward(torch.from_numpy(case["dout_top"]))
    assert error(top, case["out_top"]) <= TOLERANCE
    assert error(features.grad, case["din_feat"]) <= TOLERANCE
    for row, *readings in zip(rois.grad, case["din_rois"], case["din_rois_noempty"]):
        assert min(error(row, reading) for reading in readings) <= TOLERANCE


@pytest.mark.parametrize("name", recorded("roi_pooling"))
def test_roi_pooling_recorded(name: str, kernels: str) -> None:
    case, p = load(name)
    features = leaf(case["in_feat"])
    top = F.roi_pooling(features, torch.from_numpy(case["in_rois"]), (p["pooled_h"], p["pooled_w"]), p["spatial_scale"])
    top.backward(torch.from_numpy(case["dout_top"]))
    assert error(top, case["out_top"]) == 0
    assert error(features.grad, case["din_feat"]) <= TOLERANCE


@pytest.mark.parametrize("name", recorded("mask_resize"))
def test_mask_resize_recorded(name: str, kernels: str) -> None:
    case, p = load(name)
    masks = leaf(case["in_mask"])
    top = F.mask_resize(masks, (p["output_height"], p["output_width"]))
    top.backward(torch.from_numpy(case["dout_top"]))
    assert error(top, case["out_top"]) <= TOLERANCE
    assert error(masks.grad, case["din_mask"]) <= TOLERANCE


@pytest.mark.parametrize("name", recorded("mask_pooling"))
def test_mask_pooling_recorded(name: str, kernels: str) -> None:
    case, _ = load(name)
    features, masks = leaf(case["in_feat"]), leaf(case["in_mask"])
    top = F.mask_pooling(features, masks)
    top.backward(torch.from_numpy(case["dout_top"]))
    assert error(top, case["out_top"]) <= TOLERANCE
    assert error(features.grad, case["din_feat"]) <= TOLERANCE
    assert error(masks.grad, case["din_mask"]) <= TOLERANCE


@pytest.mark.parametrize("name", recorded("smooth_l1"))
def test_smooth_l1_recorded(name: str, kernels: str) -> None:
    case, p = load(name)
    prediction, target = leaf(case["in_pred"]), leaf(case["in_target"])
    weights = [torch.from_numpy(case[key]) for key in ("in_inside_w", "in_outside_w") if key in case]
    loss = F.smooth_l1_loss(prediction, target, *weights, sigma=p["sigma"])
    loss.backward(torch.tensor(p["loss_weight"]))
    assert error(loss, case["out_loss"]) <= TOLERANCE
    assert error(prediction.grad, case["din_pred"]) <= TOLERANCE
    assert error(target.grad, case["din_target"]) <= TOLERANCE


@pytest.mark.parametrize("name", recorded("sigmoid_ce"))
def test_sigmoid_cross_entropy_recorded(name: str, kernels: str) -> None:
    case, p = load(name)
    logits = leaf(case["in_x"])
    weights = torch.from_numpy(case["in_weight"]) if "in_weight" in case else None
    loss = F.sigmoid_cross_entropy_loss(logits, torch.from_numpy(case["in_target"]), weights, p["previous_top_value"])
    loss.backward(torch.tensor(p["loss_weight"]))
    assert error(loss, case["out_loss"]) <= TOLERANCE
    assert error(logits.grad, case["din_x"]) <= TOLERANCE


@pytest.mark.parametrize("name", recorded("nms"))
def test_nms_recorded(name: str, kernels: str) -> None:
    case, p = load(name)
    dets = torch.from_numpy(case["in_dets"])
    assert F.nms(dets[:, :4], dets[:, 4], p["thresh"]).tolist() == case["out_keep_gpu"].tolist()
    assert F.nms(dets[:, :4], dets[:, 4], p["thresh"], inclusive=True).tolist() == case["out_keep_cpu"].tolist()


@pytest.mark.parametrize("name", recorded("mask_voting"))
def test_mask_voting_recorded(name: str, kernels: str) -> None:
    case, p = load(name)
    inputs = [torch.from_numpy(case[key]) for key in ("in_boxes", "in_masks", "in_scores")]
    boxes, masks = F.mask_voting(*inputs, (p["im_height"], p["im_width"]), p["max_per_image"])
    assert [len(kept) for kept in boxes] == case["out_gpu_class_len"].tolist() == [len(kept) for kept in masks]
    assert error(torch.cat(boxes), case["out_gpu_box"]) <= TOLERANCE
    assert error(torch.cat(masks), case["out_gpu_mask"]) <= TOLERANCE


@pytest.mark.parametrize("name", recorded("mv"))
def test_merge_masks_recorded(name: str, kernels: str) -> None:
    case, p = load(name)
    boxes, masks, weights = (torch.from_numpy(case[f"in_{k}"]) for k in ("boxes", "masks", "candidate_weights"))
    groups = [torch.from_numpy(case[f"in_candidate_{k}"]).long() for k in ("inds", "start")]
    merged, tight = OPS.merge_masks(boxes, masks, *groups, weights, p["image_height"], p["image_width"], 0.4)
    assert tight.tolist() == case["out_box"].tolist()
    assert error(merged, case["out_mask"]) <= TOLERANCE


@pytest.mark.parametrize("name", cases("PSROIPooling", folder="forks"))
def test_psroi_pooling_recorded(name: str, kernels: str) -> None:
    case = np.load(REFERENCE / f"{name}.npz")
    net = schema.NetParameter()
    text_format.parse(str(case["prototxt"]), net)
    features, rois = leaf(case["out/x"]), torch.from_numpy(case["in/rois"])
    layer = layer_class("PSROIPooling")(net.layer[-1], [tuple(features.shape), tuple(rois.shape)], "TEST")
    top = layer(features, rois)
    top.backward(torch.from_numpy(case["dtop/y"]))
    assert layer.top_shapes([features.shape, rois.shape]) == [tuple(top.shape)]
    assert error(top, case["out/y"]) <= TOLERANCE
    assert error(features.grad, case["din/x"]) <= TOLERANCE


@pytest.mark.parametrize("name", [*cases("SmoothL1Loss", folder="forks"), *cases("SigmoidCrossEntropyLoss")])
def test_losses_recorded(name: str, kernels: str) -> None:
    check_case(name)


# Native kernels, twins and autograd agree on input of other kinds.


def problem(dtype: torch.dtype = torch.float64, channels: int = 19, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    """Features of three images and RoIs that cross every border, are points, or end before they start."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(3, channels, 11, 14, generator=generator, dtype=torch.float64)
    corners = torch.rand(40, 4, generator=generator, dtype=torch.float64) * 260 - 30
    corners[:25, 2:] = torch.maximum(corners[:25, :2], corners[:25, 2:])
    corners[25:28, 2:] = corners[25:28, :2]
    corners[28] *= 50
    images = torch.randint(0, 3, (40, 1), generator=generator).double()
    return tuple(t.to(device, dtype) for t in (features, torch.cat([images, corners], 1)))


Call = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
ROI_CALLS: dict[str, tuple[int, Call]] = {
    "roi_warping_published": (19, lambda x, r: F.roi_warping(x, r, (5, 9), 1 / 16)),
    "roi_warping_exact": (19, lambda x, r: F.roi_warping(x, r, (9, 4), 1 / 16, "exact")),
    "roi_pooling": (19, lambda x, r: F.roi_pooling(x, r, (6, 3), 1 / 16)),
    "psroi_pooling": (18, lambda x, r: F.psroi_pooling(x, r, 2, 3, 1 / 16)),
}


def run(call: Call, features: torch.Tensor, rois: torch.Tensor) -> list[torch.Tensor]:
    """The result and both gradients (of zeros where there is none)."""
    features, rois = features.clone().requires_grad_(), rois.clone().requires_grad_()
    top = call(features, rois)
    weights = torch.linspace(-1, 2, top.numel(), device=top.device).view_as(top).to(top.dtype)
    given = torch.autograd.grad(top, (features, rois), weights, allow_unused=True)
    return [top.detach(), *(torch.zeros(()) if grad is None else grad for grad in given)]


@needs_native
@pytest.mark.parametrize("name", ROI_CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_twins_agree(name: str, dtype: torch.dtype) -> None:
    channels, call = ROI_CALLS[name]
    inputs = problem(dtype, channels)
    with F.pure_torch():
        expected = run(call, *inputs)
    for got, wanted in zip(run(call, *inputs), expected, strict=True):
        assert error(got, wanted.numpy()) <= (1e-12 if dtype == torch.float64 else 5e-6)


@pytest.mark.parametrize("name", ROI_CALLS)
def test_layout_dtype_and_empty_input(name: str, kernels: str) -> None:
    channels, call = ROI_CALLS[name]
    features, rois = problem(torch.float32, channels)
    expected = call(features, rois)
    assert torch.equal(call(features.to(memory_format=torch.channels_last), rois.t().contiguous().t()), expected)
    assert error(call(features, rois.double()), expected.numpy()) == 0
    half = call(features.half(), rois)
    assert half.dtype == torch.float16 and error(half, expected.numpy()) < 2e-3
    top, to_features, _ = run(call, features, rois[:0])
    assert top.shape == (0, *expected.shape[1:]) and not to_features.any()
    assert call(features[:0], rois[:0]).shape == top.shape


@pytest.mark.parametrize("name", ROI_CALLS)
def test_one_image_at_a_time(name: str, kernels: str) -> None:
    channels, call = ROI_CALLS[name]
    features, rois = problem(channels=channels)
    together = call(features, rois)
    for i, image in enumerate(features):
        own = rois[:, 0] == i
        alone = torch.cat([torch.zeros_like(rois[own, :1]), rois[own, 1:]], 1)
        assert torch.equal(call(image[None], alone), together[own])


@needs_native
@pytest.mark.parametrize("name", ROI_CALLS)
def test_threads_do_not_change_a_bit(name: str) -> None:
    channels, call = ROI_CALLS[name]
    inputs = problem(torch.float32, channels)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        several = run(call, *inputs)
        torch.set_num_threads(1)
        alone = run(call, *inputs)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(several, alone, strict=True))


# Gradients.


def test_exact_gradients_are_derivatives(kernels: str) -> None:
    """With respect to real-valued cells; the batch index is off the integers, where a step would change the image."""
    features = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    cells = torch.tensor(
        [[0.5, 0.31, 1.27, 4.83, 3.41], [1.5, -1.37, -2.21, 7.63, 6.17], [0.5, 4.3, 3.2, 2.1, 4.9]],
        dtype=torch.float64,
        requires_grad=True,
    )
    masks = torch.randn(2, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, r: OPS.roi_warping(x, r, 4, 3, True), (features, cells))
    for size in ((9, 13), (3, 2)):
        assert torch.autograd.gradcheck(lambda m, size=size: F.mask_resize(m, size, "exact"), (masks,))


def test_other_gradients_are_derivatives(kernels: str) -> None:
    features, rois = problem(channels=8)
    features = features[:2, :, :4, :3].contiguous().requires_grad_()
    rois = rois[rois[:, 0] < 2][:5] / 4
    assert torch.autograd.gradcheck(lambda x: F.psroi_pooling(x, rois, 2, 2, 1 / 16), (features,))
    masks = torch.rand(2, 1, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(F.mask_pooling, (features, masks))
    a, b, w = (torch.randn(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(lambda a, b: F.smooth_l1_loss(a, b, w.detach(), w.detach() ** 2, 1.5), (a, b))
    assert torch.autograd.gradcheck(lambda a: F.sigmoid_cross_entropy_loss(a, b.sigmoid(), w.detach() ** 2), (a,))


def test_rounding_is_passed_through(kernels: str) -> None:
    features, _ = problem(channels=4)
    rois = torch.tensor([[1.0, 37.0, 21.0, 141.0, 118.0]], dtype=torch.float64, requires_grad=True)
    cells = torch.tensor([[1.0, 2.0, 1.0, 9.0, 7.0]], dtype=torch.float64, requires_grad=True)
    F.roi_warping(features, rois, 4, 1 / 16, "exact").sum().backward()
    OPS.roi_warping(features, cells, 4, 4, True).sum().backward()
    assert torch.allclose(rois.grad, cells.grad / 16)


def test_published_feature_gradient_loses_mass(kernels: str) -> None:
    features = torch.ones(1, 1, 30, 30, requires_grad=True)
    rois = torch.tensor([[0.0, 3, 4, 16, 17]])
    kept = {}
    for flavour in ("published", "exact"):
        top = F.roi_warping(features, rois, 14, 1.0, flavour)
        kept[flavour] = float(torch.autograd.grad(top.sum(), features)[0].sum() / top.sum().detach())
    assert kept["exact"] == pytest.approx(1, abs=1e-5)
    assert 0.2 < kept["published"] < 0.4


# Registration with torch.


def op_calls() -> dict[str, tuple]:
    features, rois = problem(torch.float32, 8)
    cells = rois * torch.tensor([1, 0.0625, 0.0625, 0.0625, 0.0625])
    top = torch.randn(40, 8, 3, 2)
    x, t, w = (torch.randn(3, 5) for _ in range(3))
    boxes, masks = cells[:, 1:].contiguous(), torch.rand(40, 1, 5, 5)
    groups = (torch.tensor([0, 1, 1, 7]), torch.tensor([2, 4]), torch.rand(4))
    argmax = OPS.roi_pooling(features, cells, 3, 2)[1]
    masked = (features, torch.rand(3, 1, 11, 14))
    return {
        "roi_warping": (features.requires_grad_(), cells.requires_grad_(), 3, 2, False),
        "roi_warping_backward_features": (top, cells.detach(), 3, 11, 14, False),
        "roi_warping_backward_rois": (top, features.detach(), cells.detach(), True),
        "roi_pooling": (features, cells.detach(), 3, 2),
        "roi_pooling_backward": (top, argmax, cells.detach(), 3, 11, 14),
        "psroi_pooling": (features, rois, 2, 2, 0.0625),
        "psroi_pooling_backward": (torch.randn(40, 2, 2, 2), rois, 0.0625, 3, 11, 14),
        "mask_resize": (masks.requires_grad_(), 7, 3, False),
        "mask_resize_backward": (torch.randn(2, 1, 7, 3), 5, 5, True),
        "mask_pooling": masked,
        "mask_pooling_backward": (torch.randn(3, 8, 11, 14), masked[0].detach(), masked[1]),
        "nms": (boxes.detach(), 0.3, False),
        "merge_masks": (boxes.detach(), masks.detach(), *groups, 12, 13, 0.4),
        "smooth_l1": (x.requires_grad_(), t, w, None, 1.5),
        "smooth_l1_backward": (torch.tensor(2.0), x.detach(), t, None, w, 1.5),
        "sigmoid_cross_entropy": (x, t, None),
        "sigmoid_cross_entropy_backward": (torch.tensor(2.0), x.detach(), t, w),
    }


@pytest.mark.parametrize("name", op_calls())
def test_opcheck(name: str) -> None:
    torch.library.opcheck(getattr(OPS, name).default, op_calls()[name])


def test_compiles_as_one_graph() -> None:
    features, rois = problem(torch.float32, 4)
    call = ROI_CALLS["roi_warping_published"][1]
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    for got, wanted in zip(run(compiled, features, rois), run(call, features, rois), strict=True):
        assert torch.equal(got, wanted)


# Bad input.


@pytest.mark.parametrize(
    "row, message",
    [
        ([0.0, 1, float("nan"), 3, 4], r"row 1 \(0, 1, nan, 3, 4\)"),
        ([0.0, 1, 2, float("inf"), 4], "row 1"),
        ([3.0, 1, 2, 3, 4], "batch of 3"),
        ([-1.0, 1, 2, 3, 4], "row 1"),
    ],
)
@pytest.mark.parametrize("name", ROI_CALLS)
def test_unreadable_rows_are_named(name: str, row: list[float], message: str) -> None:
    channels, call = ROI_CALLS[name]
    features, rois = problem(torch.float32, channels)
    rois[1] = torch.tensor(row)
    with pytest.raises(LayerError, match=message):
        call(features, rois)


def test_kernels_read_nothing_for_unreadable_rows(kernels: str) -> None:
    """What happens where rows are not looked at first: on other devices and under torch.compile."""
    features, rois = problem(torch.float32, 8)
    rois[:4] = torch.tensor(
        [[9e9, 1, 2, 3, 4], [0, float("nan"), 2, 3, 4], [-7, 1, 2, 3, 4], [0, -3e38, -3e38, 3e38, 3e38]]
    )
    tops = [OPS.roi_warping(features, rois, 3, 2, False), *OPS.roi_pooling(features, rois, 3, 2)]
    tops.append(OPS.psroi_pooling(features, rois, 2, 2, 1.0))
    for top, nothing in zip(tops, (0, 0, -1, 0)):
        assert (top[:3] == nothing).all() and torch.isfinite(top).all()
    grad = torch.ones(40, 8, 3, 2)
    assert torch.isfinite(OPS.roi_warping_backward_features(grad, rois, 3, 11, 14, False)).all()
    assert not OPS.roi_warping_backward_rois(grad, features, rois, False)[:3].any()
    wild = torch.full_like(grad, 1 << 30, dtype=torch.int32)
    assert not OPS.roi_pooling_backward(grad, wild, rois, 3, 11, 14).any()
    assert torch.isfinite(OPS.psroi_pooling_backward(grad[:, :2, :2], rois, 1.0, 3, 11, 14)).all()


def test_wrong_arguments_are_refused() -> None:
    features, rois = problem(torch.float32, 8)
    for wrong in (
        lambda: F.roi_warping(features[0], rois, 3, 1.0),
        lambda: F.roi_warping(features, rois[:, :4], 3, 1.0),
        lambda: F.roi_warping(features, rois.long(), 3, 1.0),
        lambda: F.roi_warping(features, rois, (3, 0), 1.0),
        lambda: F.roi_warping(features, rois, 3, 1.0, "true"),
        lambda: F.psroi_pooling(features, rois, 3, 2, 1.0),
        lambda: F.mask_resize(features, -1),
        lambda: F.mask_pooling(features, features),
        lambda: F.nms(rois, rois[:, 0], 0.5),
        lambda: F.smooth_l1_loss(rois, rois[:3]),
        lambda: F.sigmoid_cross_entropy_loss(rois, rois, rois[:3]),
        lambda: F.mask_voting(rois[:, 1:], features, rois, (5, 5)),
    ):
        with pytest.raises(LayerError):
            wrong()


# Suppression and voting.


def test_nms_equals_its_definition(kernels: str) -> None:
    boxes = torch.rand(300, 4).mul(80).round()
    boxes[:, 2:] += boxes[:, :2]
    scores = torch.rand(300).mul(20).round()
    left = scores.argsort(descending=True, stable=True).tolist()
    kept = []
    while left:
        best, *left = left
        kept.append(best)
        low, high = torch.maximum(boxes[best, :2], boxes[left, :2]), torch.minimum(boxes[best, 2:], boxes[left, 2:])
        both = (high - low + 1).clamp(min=0).prod(1)
        areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(1)
        iou = both / (areas[best] + areas[left] - both)
        left = [other for other, value in zip(left, iou.tolist()) if value <= np.float32(0.4)]
    assert F.nms(boxes, scores, 0.4).tolist() == kept
    assert F.nms(boxes[:0], scores[:0], 0.4).tolist() == []


def test_voting_memory_does_not_grow_with_the_image(kernels: str) -> None:
    """An image of 10^10 pixels, of which only those in boxes are looked at."""
    boxes = torch.tensor([[50.0, 60, 90, 99], [52, 60, 91, 100], [99_000, 99_000, 99_040, 99_040]])
    found, masks = F.mask_voting(boxes, torch.ones(3, 1, 21, 21), torch.tensor([[0.1, 0.9]] * 3), (100_000, 100_000))
    assert found[0][:, :4].long().tolist() == [[50, 60, 91, 100], [99_000, 99_000, 99_040, 99_040]]
    assert masks[0].shape == (2, 1, 21, 21)


def test_voting_without_boxes_or_score(kernels: str) -> None:
    found, masks = F.mask_voting(torch.zeros(0, 4), torch.zeros(0, 1, 21, 21), torch.zeros(0, 4), (30, 40))
    assert [tuple(b.shape) for b in found] == [(0, 5)] * 3
    assert [tuple(m.shape) for m in masks] == [(0, 1, 21, 21)] * 3
    found, masks = F.mask_voting(torch.tensor([[1.0, 2, 9, 9]]), torch.ones(1, 1, 7, 7), torch.zeros(1, 2), (30, 40))
    assert found[0].tolist() == [[20, 15, 20, 15, 0]] and not masks[0].any()


# Layers.


def test_roi_layers_follow_their_parameters(kernels: str) -> None:
    features, rois = problem(torch.float32, 8)
    size = "pooled_h: 2 pooled_w: 3 spatial_scale: 0.0625"
    shapes = tuple(features.shape), (40, 5, 1, 1)
    warp = make_layer(f'type: "ROIWarping" roi_warping_param {{ {size} }}', *shapes)
    assert warp.top_shapes(list(shapes)) == [(40, 8, 2, 3)]
    assert torch.equal(warp(features, rois.view(40, 5, 1, 1)), F.roi_warping(features, rois, (2, 3), 1 / 16))
    pool = make_layer(f'type: "ROIPooling" roi_pooling_param {{ {size} }}', *shapes)
    assert torch.equal(pool(features, rois.view(40, 5, 1, 1)), F.roi_pooling(features, rois, (2, 3), 1 / 16))
    with pytest.raises(LayerError, match="must be positive"):
        make_layer('type: "ROIPooling" roi_pooling_param { pooled_h: 2 }', *shapes)


def test_exact_gradients_by_configuration(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = torch.rand(1, 1, 5, 5, requires_grad=True)
    layer = make_layer('type: "MaskResize" mask_resize_param { output_height: 9 output_width: 9 }', (1, 1, 5, 5))
    published = torch.autograd.grad(layer(masks).sum(), masks)[0]
    monkeypatch.setitem(cfg.TRAIN, "EXACT_GRADIENTS", True)
    monkeypatch.setattr(cfg.TRAIN, "EXACT_GRADIENTS", True)
    exact = torch.autograd.grad(layer(masks).sum(), masks)[0]
    assert exact.sum() == pytest.approx(81, rel=1e-5) and published.sum() < 75


def test_weighted_loss_keeps_its_previous_value(kernels: str) -> None:
    layer = make_layer('type: "SigmoidCrossEntropyLoss"', (2, 3), (2, 3), (2, 3))
    logits, targets = torch.randn(2, 3), torch.ones(2, 3)
    assert layer(logits, targets, torch.zeros(2, 3)) == 0
    loss = layer(logits, targets, torch.ones(2, 3))
    assert loss > 0 and layer(logits, targets, torch.zeros(2, 3)) == loss


def test_ignored_targets_count_for_nothing(kernels: str) -> None:
    text = 'type: "SigmoidCrossEntropyLoss" loss_param { ignore_label: -1 normalization: VALID }'
    layer = make_layer(text, (2, 3), (2, 3))
    targets = torch.tensor([[1.0, 0, -1], [1, -1, 0]])
    logits = torch.tensor([[0.5, -2, float("nan")], [1, float("inf"), 3]], requires_grad=True)
    loss = layer(logits, targets)
    loss.backward()
    seen = targets != -1
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[seen], targets[seen])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert not logits.grad[~seen].any()


# On a GPU.


@pytest.mark.cuda
@pytest.mark.parametrize("name", ROI_CALLS)
def test_cuda_agrees_and_repeats(name: str) -> None:
    assert native.load().cuda
    channels, call = ROI_CALLS[name]
    expected = run(call, *problem(torch.float32, channels))
    first, again = (run(call, *problem(torch.float32, channels, "cuda")) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for got, wanted in zip(first, expected, strict=True):
        assert error(got.cpu(), wanted.numpy()) <= TOLERANCE


@pytest.mark.cuda
@pytest.mark.parametrize("name", op_calls())
def test_cuda_kernels_agree(name: str) -> None:
    inputs = [t.detach() if isinstance(t, torch.Tensor) else t for t in op_calls()[name]]
    on_gpu = [t.cuda() if isinstance(t, torch.Tensor) else t for t in inputs]
    expected, got = (getattr(OPS, name)(*given) for given in (inputs, on_gpu))
    for a, b in zip(*([r] if isinstance(r, torch.Tensor) else r for r in (got, expected)), strict=True):
        assert a.is_cuda and error(a.cpu(), b.numpy()) <= TOLERANCE
