"""MNC's data layer: recorded draws, and the same rules step by step on generated data."""

from __future__ import annotations

import json
import logging

import cv2
import numpy as np
import pytest
import torch

from caffe_bridge import randomness, roidb, schema, text_format
from caffe_bridge.config import cfg
from caffe_bridge.datasets import get_imdb, shapes
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.mnc_data import MNCDataLayer
from caffe_bridge.net import Net

TOPS = ("data", "im_info", "gt_boxes", "gt_masks", "mask_info")


@pytest.fixture(autouse=True)
def settings():
    cfg.TRAIN.SCALES, cfg.TRAIN.MAX_SIZE = (48, 64), 90


@pytest.fixture(scope="module")
def imdb(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    shapes.make(str(folder), 6, 0, (40, 56), objects=(1, 3))
    return get_imdb("shapes_train", folder)


def definition(options="", tops=TOPS):
    names = " ".join(f'top: "{top}"' for top in tops)
    return f"""name: "data" layer {{ name: "input-data" type: "Python" {names} python_param {{
        module: "pylayer.mnc_data_layer" layer: "MNCDataLayer" param_str: "{{'num_classes': 21{options}}}" }} }}"""


def make_layer(options="", tops=TOPS):
    param = schema.LayerParameter()
    text_format.parse(definition(options, tops).split(" layer ", 1)[1].strip()[1:-1], param)
    return MNCDataLayer(param, [], "TRAIN")


def filled(imdb, options="", flipped=True):
    layer = make_layer(options)
    layer.set_roidb(imdb.roidb(flipped))
    layer.set_maskdb(imdb.maskdb(flipped))
    return layer


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("case", ["single_scale", "multi_scale_no_grouping"])
def test_recorded_draws(reference, tmp_path, case):
    recorded = dict(np.load(reference / "mnc" / f"mnc_data__{case}.npz"))
    values = json.loads(str(recorded.pop("param_json")))
    for key, value in values["cfg"].items():
        section, _, name = key.rpartition(".")
        (cfg[section] if section else cfg)[name] = value
    entries, masks = [], []
    for i in range(values["num_images"]):
        image = recorded[f"in_im{i}"]
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
        sizes = recorded[f"in_mask_hw{i}"]
        masks.append({"gt_masks": [mask[:h, :w] for mask, (h, w) in zip(recorded[f"in_masks{i}"], sizes)]})
        entries.append(
            {
                "image": str(tmp_path / f"{i}.png"),
                "height": image.shape[0],
                "width": image.shape[1],
                "flipped": bool(values["flipped"][i]),
                "boxes": recorded[f"in_boxes{i}"].astype(np.uint16),
                "gt_classes": recorded[f"in_classes{i}"].astype(np.int32),
            }
        )
    layer = make_layer()
    np.random.seed(values["seed"])
    layer.set_roidb(entries)
    layer.set_maskdb(masks)
    for step in range(values["iters"]):
        for name, top in zip(TOPS, layer()):
            want = recorded[f"out_{name}_it{step}"]
            tolerance = 3e-4 if name == "data" else 1e-5
            np.testing.assert_allclose(top, want, rtol=1e-5, atol=tolerance, err_msg=f"{name}, draw {step}")


def original_order(entries, steps, scales, grouping=True):
    """Entry and scale of every step, as MNC's data layer draws them from NumPy's global generator."""

    def shuffle():
        if not grouping:
            return np.random.permutation(np.arange(len(entries)))
        wide = np.array([entry["width"] >= entry["height"] for entry in entries])
        order = np.hstack([np.random.permutation(np.where(wide)[0]), np.random.permutation(np.where(~wide)[0])])
        pairs = np.reshape(order, (-1, 2))
        return np.reshape(pairs[np.random.permutation(np.arange(len(pairs)))], -1)

    shuffle()
    order, position, drawn = shuffle(), 0, []
    for _ in range(steps):
        if position + 1 >= len(entries):
            order, position = shuffle(), 0
        drawn.append((order[position], scales[np.random.randint(0, high=len(scales), size=1)[0]]))
        position += 1
    return drawn


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("scales", [(48,), (40, 48, 64)])
def test_every_draw_is_the_originals(imdb, grouping, scales):
    cfg.TRAIN.SCALES, cfg.TRAIN.ASPECT_GROUPING = scales, grouping
    entries, masks = imdb.roidb(True), imdb.maskdb(True)
    np.random.seed(11)
    expected = original_order(entries, 30, scales, grouping)
    after = np.random.randint(1 << 30)
    np.random.seed(11)
    layer = filled(imdb)
    for index, scale in expected:
        data, im_info, gt_boxes, gt_masks, mask_info = layer()
        entry = entries[index]
        image = cv2.imread(entry["image"]).astype(np.float32) - cfg.PIXEL_MEANS.astype(np.float32)
        image = image[:, ::-1] if entry["flipped"] else image
        factor = scale / 40 if round(scale / 40 * 56) <= 90 else 90 / 56
        image = cv2.resize(image, None, None, fx=factor, fy=factor)
        np.testing.assert_allclose(data[0].permute(1, 2, 0), image, atol=1e-3)
        np.testing.assert_allclose(im_info, [[*image.shape[:2], factor]], rtol=1e-6)
        np.testing.assert_allclose(gt_boxes[:, :4], entry["boxes"] * factor, rtol=1e-6)
        assert gt_boxes[:, 4].tolist() == entry["gt_classes"].tolist()
        sizes = [mask.shape for mask in masks[index]["gt_masks"]]
        assert mask_info.tolist() == [list(size) for size in sizes]
        assert gt_masks.shape == (len(sizes), *np.max(sizes, 0))
        for padded, mask in zip(gt_masks, masks[index]["gt_masks"]):
            assert padded.sum() == mask.sum()
            np.testing.assert_array_equal(padded[: mask.shape[0], : mask.shape[1]], mask)
        assert all(top.dtype == torch.float32 for top in (data, im_info, gt_boxes, gt_masks, mask_info))
    assert np.random.randint(1 << 30) == after


def test_pairs_have_one_aspect_and_an_odd_one_out_comes_last():
    entries = [{"width": 4 + i % 2, "height": 5 - i % 2} for i in range(11)]
    for _ in range(20):
        order = roidb.shuffled(entries, np.random)
        assert sorted(order) == list(range(11))
        kinds = order % 2
        assert sum(kinds[i] != kinds[i + 1] for i in range(0, 10, 2)) <= 1
    assert roidb.shuffled(entries[:1], np.random).tolist() == [0]


def test_one_image_is_given_again_and_again(imdb):
    layer = make_layer()
    layer.set_roidb(imdb.roidb()[:1])
    layer.set_maskdb(imdb.maskdb()[:1])
    assert len({tuple(layer()[1][0, :2].tolist()) for _ in range(20)}) == 2  # the two scales


def test_three_tops_are_faster_rcnns(imdb):
    layer = make_layer(tops=TOPS[:3])
    layer.set_roidb(imdb.roidb())
    assert [tuple(top.shape[:1]) for top in layer()][:2] == [(1,), (1,)] and len(layer()) == 3


def test_before_any_data_the_shapes_are_caffes():
    net = Net(definition(), phase="TRAIN")
    shapes_ = [net.graph.shapes[top] for top in TOPS]
    assert shapes_ == [(1, 3, 64, 90), (1, 3), (1, 4), (1, 21, 21), (1, 3)]
    with pytest.raises(LayerError, match="set_roidb.*set_maskdb"):
        net()


@pytest.mark.parametrize("options", ["", ", 'prefetch': 2"])
def test_a_restored_stream_goes_on_with_the_same_images(imdb, options):
    first = filled(imdb, options)
    for _ in range(7):
        first()
    state = json.loads(json.dumps(first.stream_state()))
    numpy_state = np.random.get_state()
    expected = [first() for _ in range(25)]
    second = filled(imdb, options)
    second()
    second.set_stream_state(state)
    np.random.set_state(numpy_state)
    assert all(equal(second(), tops) for tops in expected)


def test_prefetching_leaves_numpys_generator_alone_and_repeats(imdb):
    runs = []
    for _ in range(2):
        randomness.seed(4)
        np.random.seed(5)
        layer = filled(imdb, ", 'prefetch': 3")
        runs.append([layer() for _ in range(20)])
        assert np.random.randint(1 << 30) == np.random.RandomState(5).randint(1 << 30)
    assert all(equal(*pair) for pair in zip(*runs))
    sizes = [tuple(tops[1][0].tolist()) for tops in runs[0]]
    assert len(set(sizes)) == 2


def test_a_state_of_other_data_is_refused(imdb):
    layer = filled(imdb)
    state = layer.stream_state()
    layer.set_roidb(imdb.roidb())
    with pytest.raises(LayerError, match="it is of 12 images, there are 6 now"):
        layer.set_stream_state(state)
    for damaged in ({}, {**state, "order": "x"}, {**state, "drawn": [[99, 48]]}, {**state, "position": -1}):
        with pytest.raises(LayerError, match="cannot be used"):
            filled(imdb).set_stream_state(damaged)


@pytest.mark.parametrize("options", ["", ", 'prefetch': 2"])
def test_images_that_go_bad_are_passed_over(tmp_path, caplog, options):
    shapes.make(str(tmp_path), 4, 0, (40, 56))
    imdb = get_imdb("shapes_train", tmp_path)
    layer = filled(imdb, options)
    (tmp_path / "img" / "train_000000.jpg").unlink()
    (tmp_path / "img" / "train_000001.jpg").write_bytes(b"broken")
    cv2.imwrite(str(tmp_path / "img" / "train_000002.jpg"), np.zeros((40, 40, 3), np.uint8))
    for _ in range(20):
        assert layer()[0].shape[1] == 3
    assert sorted(path[-5] for path in layer.unreadable) == list("012")
    reasons = " ".join(layer.unreadable.values())
    assert "No such file" in reasons and "cannot be decoded" in reasons and "40 x 40 pixels" in reasons
    warnings = [
        record for record in caplog.records if record.levelno == logging.WARNING and "passed over" in record.msg
    ]
    assert len(warnings) == 3
    (tmp_path / "img" / "train_000003.jpg").unlink()
    with pytest.raises(LayerError, match="no image can be read any more"):
        for _ in range(10):
            layer()


def test_an_image_that_goes_bad_is_refused_if_asked(tmp_path):
    shapes.make(str(tmp_path), 1, 0, (40, 56))
    layer = filled(get_imdb("shapes_train", tmp_path), ", 'unreadable': 'refuse'")
    (tmp_path / "img" / "train_000000.jpg").unlink()
    with pytest.raises(LayerError, match="train_000000.jpg: No such file"):
        layer()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gt_classes": np.array([0])}, "has no object to train on"),
        ({"gt_classes": np.array([21])}, "has classes 21 to 21, num_classes is 21"),
        ({"gt_classes": np.array([-1])}, "has classes -1"),
        ({"gt_classes": np.array([1, 2])}, "boxes have shape"),
        ({"boxes": np.zeros((0, 4)), "gt_classes": np.zeros(0, int)}, "has no object"),
        ({"boxes": np.zeros((1, 5))}, "boxes have shape"),
    ],
)
def test_entries_are_checked_when_they_are_handed_over(change, reason):
    entry = {"image": "a.jpg", "width": 5, "height": 5, "flipped": False}
    entry |= {"boxes": np.zeros((1, 4)), "gt_classes": np.ones(1, int)}
    make_layer().set_roidb([entry])
    with pytest.raises(LayerError, match=f"a.jpg: .*{reason}"):
        make_layer().set_roidb([entry | change])
    del entry["width"]
    with pytest.raises(LayerError, match="a.jpg: lacks width"):
        make_layer().set_roidb([entry])


def test_masks_must_belong_to_the_boxes(imdb):
    layer = make_layer()
    with pytest.raises(LayerError, match="has no entry"):
        layer.set_roidb([])
    layer.set_roidb(imdb.roidb())
    with pytest.raises(LayerError, match="the maskdb has 12 entries, the roidb 6"):
        layer.set_maskdb(imdb.maskdb(True))
    with pytest.raises(LayerError, match=r"boxes and 0 masks"):
        layer.set_maskdb([{"gt_masks": []}] * 6)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (", 'prefetch': -1", "'prefetch' is a number of threads"),
        (", 'prefetch': true", "'prefetch'"),
        (", 'prefetch': 1000000", "'prefetch'"),
        (", 'unreadable': 'ignore'", "'unreadable' is skip or refuse"),
        (", 'num_classes': 'x'", "'num_classes'"),
    ],
)
def test_options_that_make_no_sense(options, reason):
    with pytest.raises(LayerError, match=reason):
        make_layer(options)


def test_settings_that_make_no_sense(imdb):
    with pytest.raises(LayerError, match="not 4"):
        make_layer(tops=TOPS[:4])
    layer = filled(imdb)
    cfg.TRAIN.IMS_PER_BATCH = 2
    with pytest.raises(LayerError, match="IMS_PER_BATCH is 2"):
        layer()
    cfg.TRAIN.IMS_PER_BATCH, cfg.TRAIN.SCALES = 1, ()
    with pytest.raises(LayerError, match="SCALES is empty"):
        layer()
