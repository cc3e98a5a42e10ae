import cv2
import numpy as np
import pytest
import torch
from layer_cases import make_layer

from caffe_bridge import CaffeError, Net, randomness, schema
from caffe_bridge.annotated_images import coverage, satisfies
from caffe_bridge.database import DatabaseWriter

BOXES = np.float32([[0.1, 0.2, 0.5, 0.6], [0.5, 0.5, 0.9, 1.0]])


def image(seed, height=20, width=30):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.GaussianBlur(pixels, (5, 5), 2)


def annotated(seed, boxes=BOXES, encoded=True, typed=True):
    pixels = image(seed)
    record = schema.AnnotatedDatum()
    record.datum.label = seed
    if encoded:
        record.datum.encoded, record.datum.data = True, cv2.imencode(".png", pixels)[1].tobytes()
    else:
        record.datum.height, record.datum.width, record.datum.channels = pixels.shape
        record.datum.data = pixels.transpose(2, 0, 1).tobytes()
    if typed:
        record.type = schema.AnnotatedDatum.BBOX
    for k, box in enumerate(boxes):
        group = record.annotation_group.add(group_label=k + 1)
        values = dict(zip(("xmin", "ymin", "xmax", "ymax"), map(float, box)))
        group.annotation.add(instance_id=k, bbox=schema.NormalizedBBox(difficult=k == 1, **values))
    return record


@pytest.fixture
def database(tmp_path):
    def make(*records):
        with DatabaseWriter(str(tmp_path / "db"), "LMDB") as writer:
            for k, record in enumerate(records):
                writer.put(b"%04d" % k, record.SerializeToString())
        return str(tmp_path / "db")

    return make


def layer_for(path, transform="", annotation="", batch=2, phase="TRAIN"):
    text = (
        f'type: "AnnotatedData" top: "data" top: "label" data_param {{ source: "{path}" backend: LMDB '
        f"batch_size: {batch} }} transform_param {{ {transform} }} annotated_data_param {{ {annotation} }}"
    )
    return make_layer(text, phase=phase)


def test_plain_batches(database):
    layer = layer_for(database(annotated(0), annotated(1, BOXES[:1], encoded=False)), "scale: 0.5 mean_value: 7")
    assert layer.top_shapes([]) == [(2, 3, 20, 30), (1, 1, 2, 8)]
    data, truth = layer()
    for k in range(2):
        np.testing.assert_allclose(data[k].numpy(), (image(k).transpose(2, 0, 1) - 7.0) * 0.5)
    wanted = [(0, 1, 0, *BOXES[0], 0), (0, 2, 1, *BOXES[1], 1), (1, 1, 0, *BOXES[0], 0)]
    np.testing.assert_allclose(truth[0, 0].numpy(), wanted, atol=1e-6)


def test_images_without_boxes(database):
    layer = layer_for(database(annotated(0, BOXES[:0])), batch=1)
    assert (layer()[1] == -1).all() and layer()[1].shape == (1, 1, 1, 8)


def test_records_without_a_type_have_labels(database):
    layer = layer_for(database(annotated(3, typed=False), annotated(4, typed=False)))
    assert layer()[1].tolist() == [3, 4]


def test_mirroring_flips_boxes(database):
    layer = layer_for(database(annotated(0)), "mirror: true", batch=16)
    data, truth = layer()
    plain = image(0).transpose(2, 0, 1)
    flipped = [bool((data[k].numpy() == plain[:, :, ::-1]).all()) for k in range(16)]
    assert 0 < sum(flipped) < 16
    for k, flip in enumerate(flipped):
        boxes = truth[0, 0][truth[0, 0, :, 0] == k][:, 3:7].numpy()
        wanted = np.stack([1 - BOXES[:, 2], BOXES[:, 1], 1 - BOXES[:, 0], BOXES[:, 3]], 1) if flip else BOXES
        np.testing.assert_allclose(boxes, wanted, atol=1e-6)


def test_resizing_keeps_boxes(database):
    layer = layer_for(database(annotated(0)), "resize_param { height: 11 width: 13 }", batch=1)
    data, truth = layer()
    wanted = cv2.resize(image(0), (13, 11)).transpose(2, 0, 1)
    np.testing.assert_array_equal(data[0].numpy(), wanted)
    np.testing.assert_allclose(truth[0, 0, :, 3:7].numpy(), BOXES, atol=1e-6)


def test_central_crop_moves_boxes(database):
    layer = layer_for(database(annotated(0)), "crop_size: 10", batch=1, phase="TEST")
    data, truth = layer()
    np.testing.assert_array_equal(data[0].numpy(), image(0)[5:15, 10:20].transpose(2, 0, 1))
    pixels = (BOXES * np.float32([30, 20, 30, 20]) - np.float32([10, 5, 10, 5])) / 10
    np.testing.assert_allclose(truth[0, 0, :, 3:7].numpy(), pixels.clip(0, 1), atol=1e-6)


def test_a_crop_drops_boxes_whose_centre_leaves(database):
    crop = "crop_h: 4 crop_w: 6 emit_constraint { emit_type: CENTER }"
    truth = layer_for(database(annotated(0)), crop, batch=1, phase="TEST")()[1]
    assert (truth == -1).all()


def test_expansion_puts_the_image_on_a_larger_canvas(database):
    expand = "mean_value: 9 expand_param { prob: 1 max_expand_ratio: 3 }"
    layer = layer_for(database(annotated(0)), expand, batch=1)
    data, truth = layer()
    height, width = data.shape[2:]
    assert 20 <= height <= 60 and 30 <= width <= 90
    corners = truth[0, 0, :, 3:7].numpy() * np.float32([width, height, width, height])
    size = corners[:, 2:] - corners[:, :2]
    np.testing.assert_allclose(size, (BOXES[:, 2:] - BOXES[:, :2]) * [30, 20], rtol=1e-4)
    x, y = np.rint(corners[0, :2] - BOXES[0, :2] * [30, 20]).astype(int)
    np.testing.assert_array_equal(data[0, :, y : y + 20, x : x + 30].numpy(), image(0).transpose(2, 0, 1) - 9.0)
    assert (data.sum() - data[0, :, y : y + 20, x : x + 30].sum()).item() == 0


def test_sampled_crops_meet_their_constraint(database):
    sampler = (
        "batch_sampler { sampler { min_scale: 0.3 max_scale: 0.9 min_aspect_ratio: 0.5 max_aspect_ratio: 2 } "
        "sample_constraint { min_jaccard_overlap: 0.5 } max_sample: 1 max_trials: 50 }"
    )
    layer = layer_for(database(annotated(0)), "resize_param { height: 8 width: 8 }", sampler, batch=20)
    truth = layer()[1][0, 0].numpy()
    boxes = truth[:, 3:7]
    assert ((boxes >= 0) & (boxes <= 1)).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    share = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    best = [share[truth[:, 0] == k].max() for k in range(20)]
    # Either no window was found and the image is whole (0.2 is its largest box), or the box fills half of it.
    assert all(value == pytest.approx(0.2) or value > 0.49 for value in best) and max(best) > 0.49


@pytest.mark.parametrize(
    ("fields", "good"),
    [
        ({}, True),
        ({"min_jaccard_overlap": 0.2}, True),
        ({"min_jaccard_overlap": 0.3}, False),
        ({"max_jaccard_overlap": 0.1}, False),
        ({"min_sample_coverage": 0.25, "max_sample_coverage": 0.25}, True),
        ({"min_object_coverage": 0.9}, True),
        ({"max_object_coverage": 0.9}, False),
        ({"min_jaccard_overlap": 0.2, "max_object_coverage": 0.9}, True),
    ],
)
def test_constraints(fields, good):
    window, boxes = (0.0, 0.0, 1.0, 1.0), np.array([[0.0, 0.0, 0.5, 0.5]])
    assert satisfies(window, boxes, schema.SampleConstraint(**fields)) is good
    assert satisfies(window, boxes[:0], schema.SampleConstraint(**fields)) is not bool(fields)


def test_coverage():
    a, b = np.array([[0, 0, 0.5, 1.0], [0, 0, 0, 1]]), np.array([[0.25, 0, 1, 0.5]])
    np.testing.assert_allclose(coverage(a, b), [0.25, 0])


def test_distortion_keeps_boxes_and_repeats_with_the_seed(database):
    distort = (
        "distort_param { brightness_prob: 0.5 brightness_delta: 32 contrast_prob: 0.5 contrast_lower: 0.5 "
        "contrast_upper: 1.5 hue_prob: 0.5 hue_delta: 18 saturation_prob: 0.5 saturation_lower: 0.5 "
        "saturation_upper: 1.5 random_order_prob: 0.5 }"
    )
    path = database(annotated(0))
    batches = []
    for seed in (1, 1, 2):
        randomness.seed(seed)
        batches.append(layer_for(path, distort, batch=4)())
    assert torch.equal(batches[0][0], batches[1][0]) and not torch.equal(batches[0][0], batches[2][0])
    np.testing.assert_allclose(batches[0][1][0, 0, :2, 3:7].numpy(), BOXES, atol=1e-6)


def test_goes_on_after_a_snapshot(database):
    path = database(*(annotated(k) for k in range(3)))
    layer = layer_for(path, "mirror: true crop_size: 12")
    layer()
    state = layer.stream_state()
    wanted = layer()
    other = layer_for(path, "mirror: true crop_size: 12")
    other.set_stream_state(state)
    for a, b in zip(other(), wanted, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(CaffeError, match="snapshot"):
        other.set_stream_state({})


@pytest.mark.parametrize(
    ("transform", "annotation"),
    [
        ("crop_size: 21", ""),
        ("crop_h: 3", ""),
        ("resize_param { height: 3 }", ""),
        ("resize_param { resize_mode: FIT_SMALL_SIZE height: 3 width: 3 }", ""),
        ("noise_param { }", ""),
        ("force_color: true force_gray: true", ""),
        ("expand_param { }", ""),
        ("", "batch_sampler { sampler { min_scale: 0 } }"),
        ("", "batch_sampler { sampler { min_aspect_ratio: 3 max_aspect_ratio: 2 } }"),
        ("", "anno_type: LANE"),
    ],
)
def test_refuses(database, transform, annotation):
    with pytest.raises(CaffeError):
        layer_for(database(annotated(0)), transform, annotation)


def test_records_that_are_none(database, tmp_path):
    path = database(annotated(0), annotated(1, encoded=False))
    with DatabaseWriter(str(tmp_path / "bad"), "LMDB") as writer:
        writer.put(b"k", b"\xff\xff")
    with pytest.raises(CaffeError, match="no AnnotatedDatum"):
        layer_for(str(tmp_path / "bad"))
    with pytest.raises(CaffeError, match="batch_size"):
        layer_for(path, batch=0)


def test_in_a_net(database):
    path = database(annotated(0))
    net = Net(
        f'layer {{ name: "d" type: "AnnotatedData" top: "data" top: "label" data_param {{ source: "{path}" '
        "backend: LMDB batch_size: 3 } }",
        phase="TRAIN",
    )
    out = net()
    assert out["data"].shape == (3, 3, 20, 30) and out["label"].shape == (1, 1, 6, 8)
