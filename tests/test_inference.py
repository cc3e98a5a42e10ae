"""From a picture to instances, against the steps of MNC's test code written out in NumPy."""

from __future__ import annotations

import json
import zlib

import cv2
import numpy as np
import pytest
import torch

from caffe_bridge import boxes as box_arithmetic
from caffe_bridge import inference, recipe
from caffe_bridge.config import cfg
from caffe_bridge.drawing import draw_instances, palette
from caffe_bridge.errors import CaffeError
from caffe_bridge.inference import Instances, detect, forward_stages, paste_mask, prepare_image
from caffe_bridge.layers import functional
from caffe_bridge.net import Net
from caffe_bridge.scaling import image_scale


@pytest.fixture(scope="module")
def net(request):
    """The thin MNC net with weights of the recipe."""
    root = request.config.rootpath
    net = Net(root / "prototxt" / "mnc5_tiny" / "test.prototxt")
    recipe.fill(net)
    return net


def picture(height, width, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(375, 500, 1.6), (500, 375, 1.6), (300, 300, 2.0), (400, 1000, 1.0), (600, 1000, 1.0), (601, 1003, 1000 / 1003)],
)
def test_scale_is_of_the_short_side_until_the_long_one_is_too_long(height, width, scale):
    assert image_scale(height, width, 600, 1000) == pytest.approx(scale, abs=0)


def test_a_long_side_that_rounds_to_the_limit_is_not_too_long():
    assert image_scale(600, 1000.4, 600, 1000) == 1.0
    assert image_scale(600, 1000.6, 600, 1000) < 1.0


@pytest.mark.parametrize("size", [(47, 61), (61, 47), (33, 100)])
def test_prepared_image(size):
    cfg.TEST.SCALES, cfg.TRAIN.MAX_SIZE = (60,), 90
    image = picture(*size)
    before = image.copy()
    data, im_info = prepare_image(image)
    scale = min(60 / min(size), 90 / max(size))
    centred = image - np.array([102.9801, 115.9465, 122.7717])
    expected = cv2.resize(centred.astype(np.float32), None, fx=scale, fy=scale)
    assert data.dtype == im_info.dtype == torch.float32
    assert data.shape == (1, 3, *expected.shape[:2])
    assert np.allclose(data[0].permute(1, 2, 0).numpy(), expected, atol=1e-3)
    assert im_info.tolist() == [[*expected.shape[:2], np.float32(scale)]]
    assert np.array_equal(image, before)


@pytest.mark.parametrize("shape", [(5, 5), (5, 5, 4), (0, 5, 3), (5, 5, 3, 1)])
def test_what_is_no_image(shape):
    with pytest.raises(CaffeError, match="an image is an array"):
        prepare_image(np.zeros(shape, np.uint8))


def test_sizes_without_sense():
    with pytest.raises(CaffeError, match="scaled by"):
        prepare_image(np.zeros((1, 5000, 3), np.uint8))
    with pytest.raises(CaffeError, match="scaled by"):
        prepare_image(np.zeros((10, 10, 3), np.uint8), 10**6, 10**6)
    cfg.TEST.SCALES = ()
    with pytest.raises(CaffeError, match="TEST.SCALES"):
        prepare_image(np.zeros((10, 10, 3), np.uint8))


def test_both_stages_in_image_pixels(net):
    cfg.TEST.SCALES = (200,)
    image = picture(120, 150)
    boxes, masks, scores = forward_stages(net, image)
    data, im_info = prepare_image(image)
    with torch.no_grad():
        names = ["rois", "rois_ext", "mask_proposal", "mask_proposal_ext", "seg_cls_prob", "seg_cls_prob_ext"]
        blobs = net(data=data, im_info=im_info, blobs=names)
    first = len(blobs["rois"])
    assert first > 0 and len(boxes) == 2 * first
    for part, rois in ((slice(0, first), blobs["rois"]), (slice(first, None), blobs["rois_ext"])):
        unscaled = rois[:, 1:].numpy() / np.float32(im_info[0, 2].item())
        assert np.array_equal(boxes[part].numpy(), box_arithmetic.clip(unscaled, (120, 150))[0])
    assert torch.equal(masks, torch.cat([blobs["mask_proposal"], blobs["mask_proposal_ext"]]))
    assert torch.equal(scores, torch.cat([blobs["seg_cls_prob"], blobs["seg_cls_prob_ext"]]))


def test_detect_votes(net):
    cfg.TEST.SCALES = (160,)
    image = picture(110, 150)
    found = detect(net, image, max_per_image=10)
    boxes, masks = functional.mask_voting(*forward_stages(net, image), image.shape[:2], max_per_image=10)
    assert 0 < len(found) and torch.equal(found.boxes, torch.cat(boxes)[:, :4])
    assert torch.equal(found.scores, torch.cat(boxes)[:, 4]) and torch.equal(found.masks, torch.cat(masks)[:, 0])
    assert found.classes.tolist() == [c for c, rows in enumerate(boxes, 1) for _ in rows]


def test_detect_without_merging(net):
    cfg.TEST.SCALES, cfg.TEST.USE_MASK_MERGE = (160,), False
    image = picture(110, 150)
    found = detect(net, image, max_per_image=20)
    boxes, _, scores = (value.numpy() for value in forward_stages(net, image))
    for c in range(1, scores.shape[1]):
        mine = found.boxes[found.classes == c].numpy()
        order = np.argsort(-scores[:, c], kind="stable")[:20]
        assert np.array_equal(mine, boxes[suppressed(boxes, order, 0.3)])


def suppressed(boxes, order, threshold):
    """Rows of `order` that overlap no kept one by more than the threshold."""
    keep: list[int] = []
    for i in order:
        overlaps = box_arithmetic.overlaps(boxes[i : i + 1], boxes[keep]) if keep else np.zeros(1)
        if overlaps.max() <= threshold:
            keep.append(i)
    return keep


@pytest.mark.parametrize("case", ["top5", "all_kept", "two_boxes"])
def test_binarised_voting_is_the_cpu_programs(case, reference):
    recorded = np.load(reference / "mnc" / f"mask_voting__{case}.npz")
    parameters = json.loads(str(recorded["param_json"]))
    boxes, masks = inference.vote_binarised(
        *(torch.from_numpy(recorded[f"in_{name}"]) for name in ("boxes", "masks", "scores")),
        (parameters["im_height"], parameters["im_width"]),
        parameters["max_per_image"],
    )
    assert [len(rows) for rows in boxes] == recorded["out_cpu_class_len"].tolist()
    assert np.allclose(torch.cat(boxes), recorded["out_cpu_box"], atol=1e-5)
    assert np.allclose(torch.cat(masks), recorded["out_cpu_mask"], atol=1e-5)


def test_settings_choose_the_way_of_voting(net):
    cfg.TEST.SCALES, cfg.TEST.USE_GPU_MASK_MERGE = (160,), False
    image = picture(110, 150)
    boxes, masks = inference.vote_binarised(*forward_stages(net, image), image.shape[:2], 5)
    found = detect(net, image, max_per_image=5)
    assert len(found) >= 5 and torch.equal(found.boxes, torch.cat(boxes)[:, :4])
    assert torch.equal(found.masks, torch.cat(masks)[:, 0])


def test_net_without_proposals_gives_an_empty_result(net, monkeypatch):
    monkeypatch.setattr(
        inference, "forward_stages", lambda *_: (torch.zeros(0, 4), torch.zeros(0, 1, 21, 21), torch.zeros(0, 5))
    )
    found = detect(net, picture(50, 50))
    assert len(found) == 0 and found.masks.shape == (0, 21, 21) and found.boxes.shape == (0, 4)


def test_other_nets_are_refused():
    net = Net('layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }')
    with pytest.raises(CaffeError, match="takes 'data' and 'im_info'; this net takes x"):
        detect(net, picture(50, 50))
    net = Net('input: "data" input_dim: 1 input_dim: 3 input_dim: 5 input_dim: 5 input: "im_info" '
              "input_dim: 1 input_dim: 3 input_dim: 1 input_dim: 1")  # fmt: skip
    with pytest.raises(CaffeError, match="has no 'rois'"):
        detect(net, picture(50, 50))


def test_pasted_mask():
    mask = np.zeros((21, 21), np.float32)
    mask[:, 11:] = 1
    pasted = paste_mask(mask, [10.4, 5.5, 51.5, 20.2], (30, 60))
    expected = np.zeros((30, 60), bool)
    expected[6:21, 10:53] = cv2.resize(mask, (43, 15)) >= 0.4
    assert np.array_equal(pasted, expected)


@pytest.mark.parametrize(
    ("box", "size"),
    [((-20, -5, 200, 100), (30 * 60)), ((58.4, 28.7, 90, 90), 2), ((20, 10, 10, 20), 0), ((np.nan, 0, 5, 5), 0)],
)
def test_boxes_over_the_edge_and_impossible_ones(box, size):
    pasted = paste_mask(torch.ones(21, 21), torch.tensor(box), (30, 60))
    assert pasted.shape == (30, 60) and pasted.sum() == size


def test_palette_is_pascal_vocs():
    assert palette(22).tolist()[:4] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert palette(22).tolist()[20:] == [[0, 64, 128], [128, 64, 128]]
    assert len(np.unique(palette(256), axis=0)) == 256


def test_drawing_changes_only_what_it_covers():
    image = picture(60, 80)
    before = image.copy()
    found = Instances(
        torch.tensor([[20.0, 25.0, 50.0, 50.0]]), torch.tensor([1]), torch.tensor([0.75]), torch.ones(1, 21, 21)
    )
    drawn = draw_instances(image, found, ["thing"])
    assert np.array_equal(image, before)
    assert (drawn[28:48, 23:48] != image[28:48, 23:48]).any(2).mean() > 0.9
    assert np.array_equal(drawn[53:], image[53:])
    assert np.array_equal(draw_instances(image, found.above(0.8), ["thing"]), image)


def test_recipe_matches_its_definition():
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 300 } } }
    layer { name: "cls_score" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" }
            inner_product_param { num_output: 7 } }
    layer { name: "cls_score_ext" type: "InnerProduct" bottom: "x" top: "b" param { name: "w" }
            inner_product_param { num_output: 7 } }
    layer { name: "fc_ext" type: "InnerProduct" bottom: "x" top: "c" inner_product_param { num_output: 5 } }
    """
    net = Net(text)
    recipe.fill(net)
    for layer, name, gain in (("cls_score", "cls_score", 2), ("cls_score_ext", "cls_score", 2), ("fc_ext", "fc", 1)):
        weight, bias = net.params[layer]
        assert np.array_equal(weight.detach().numpy(), expected_weight(name, weight.shape, gain))
        assert not bias.any()


def expected_weight(name, shape, gain):
    random = np.random.RandomState(zlib.crc32(f"{name}/0".encode()) % 2**31)
    return random.standard_normal(tuple(shape)).astype(np.float32) * np.float32(gain * np.sqrt(2 / shape[1]))


def test_recipe_does_not_depend_on_how_much_is_drawn_at_a_time(net, monkeypatch):
    before = {key: value.clone() for key, value in net.state_dict().items()}
    monkeypatch.setattr(recipe, "_DRAWS", 1001)
    recipe.fill(net)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_recording_comparison(reference):
    recorded = dict(np.load(reference / "e2e" / "mnc5_384x512.npz"))
    assert all(verdict.passed for verdict in recipe.compare(recorded, recorded))
    order = np.random.permutation(len(recorded["rois"]))
    rows = {name: value[order] for name, value in recorded.items() if len(value) == len(order)}
    assert all(verdict.passed for verdict in recipe.compare({**recorded, **rows}, recorded))
    for name in ("rpn_bbox_pred", "rois", "seg_cls_prob_ext"):
        wrong = {**recorded, name: recorded[name] + 1}
        assert name in [verdict.blob for verdict in recipe.compare(wrong, recorded) if not verdict.passed]
