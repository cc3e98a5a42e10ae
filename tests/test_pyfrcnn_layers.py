"""py-faster-rcnn's Python layers against what the original computed, and what they refuse."""

from __future__ import annotations

import json
import logging
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pyfrcnn_cases import close, load, names, settings

from caffe_bridge import randomness, registry, roi_sampling, schema
from caffe_bridge.config import cfg
from caffe_bridge.errors import LayerError
from caffe_bridge.layers.base import Layer
from caffe_bridge.net import Net

MODULES = {
    "proposal": ("rpn.proposal_layer", "ProposalLayer"),
    "anchor_target": ("rpn.anchor_target_layer", "AnchorTargetLayer"),
    "proposal_target": ("rpn.proposal_target_layer", "ProposalTargetLayer"),
    "roi_data": ("roi_data_layer.layer", "RoIDataLayer"),
    "torch_transform": ("transform.torch_image_transform_layer", "TorchImageTransformLayer"),
}
TARGETS = ["bbox_targets", "bbox_inside_weights", "bbox_outside_weights"]


def make(operation: str, shapes: list[tuple[int, ...]], tops: int, options: Any = "{}", phase: str = "TRAIN") -> Layer:
    param = schema.LayerParameter()
    param.top.extend(f"top{number}" for number in range(tops))
    param.python_param.param_str = options if isinstance(options, str) else json.dumps(options)
    cls = registry.python_layer_class(*MODULES[operation])
    assert cls is not None
    return cls(param, shapes, phase)


def run(operation: str, data: dict[str, np.ndarray], values: dict[str, Any]) -> None:
    """Run a recorded case that is a function of its bottoms."""
    bottoms = {
        "proposal": ["prob", "deltas", "im_info"],
        "anchor_target": ["score", "gt_boxes", "im_info"],
        "proposal_target": ["rois", "gt_boxes"],
        "torch_transform": ["data"],
    }[operation]
    tops = {
        "proposal": ["rois", "scores"][: values.get("tops")],
        "anchor_target": ["labels", *TARGETS],
        "proposal_target": ["rois", "labels", *TARGETS],
        "torch_transform": ["data"],
    }[operation]
    if operation == "anchor_target":
        data["in_score"] = np.zeros((1, 18, values["feat_h"], values["feat_w"]), np.float32)
    inputs = [torch.from_numpy(data[f"in_{name}"]).requires_grad_() for name in bottoms]
    if operation == "anchor_target":
        inputs.append(torch.zeros(1, 3, 8, 8))  # the image, which the layer ignores
    options = values.get("param_str") or values.get("param", {})
    layer = make(operation, [tuple(value.shape) for value in inputs], len(tops), options, values.get("phase", "TRAIN"))
    np.random.seed(values["seed"])
    found = layer(*inputs)
    found = found if isinstance(found, tuple) else (found,)
    if "out_rng_next" in data:
        assert np.random.randint(0, 2**31 - 1, 3).tolist() == data["out_rng_next"].tolist()
    assert len(found) == len(tops)
    for name, top in zip(tops, found):
        close(top.detach(), data[f"out_{name}"])
        assert top.dtype == torch.float32
    assert all(layer.stops_gradient(number) for number in range(len(inputs)))


@pytest.mark.parametrize("case", names("proposal", "anchor_target", "proposal_target", "torch_transform"))
def test_layer_matches_the_original(case):
    data, values = load(case)
    with settings(values.get("cfg")):
        run(case.split("__")[0], data, values)


def test_settings_may_be_lists_of_one_but_not_mncs():
    data, values = load("proposal_target__sampled_end2end")
    lists = {"TRAIN.FG_FRACTION": [0.25], "TRAIN.FG_THRESH": (0.5,), "TRAIN.BG_THRESH_HI": [0.5]}
    with settings({**values["cfg"], **lists}):
        run("proposal_target", data, values)
    with (
        settings({"TRAIN.BG_THRESH_LO": [0.1, 0.0]}),
        pytest.raises(LayerError, match='BG_THRESH_LO.*"py_faster_rcnn"'),
    ):
        run("proposal_target", data, values)
    with pytest.raises(LayerError, match="one number for py-faster-rcnn's layers"):
        run("proposal_target", data, values)


def test_proposals_pass_no_gradient_on():
    """Net takes constants at their word: nothing below the layer trains through it."""
    net = Net(
        """
        input: "prob" input_shape { dim: 1 dim: 18 dim: 3 dim: 4 }
        input: "x" input_shape { dim: 1 dim: 2 dim: 3 dim: 4 } input: "info" input_shape { dim: 1 dim: 3 }
        layer { name: "d" type: "Convolution" bottom: "x" top: "d"
                convolution_param { num_output: 36 kernel_size: 1 weight_filler { type: "gaussian" std: 0.01 } } }
        layer { name: "p" type: "Python" bottom: "prob" bottom: "d" bottom: "info" top: "rois"
                python_param { module: "rpn.proposal_layer" layer: "ProposalLayer" param_str: "'feat_stride': 16" } }
        layer { name: "loss" type: "Reduction" bottom: "rois" top: "loss" loss_weight: 1 }
        """,
        phase="TRAIN",
    )
    info = torch.tensor([[48.0, 64.0, 1.0]])
    loss = net.loss(net(prob=torch.rand(1, 18, 3, 4), x=torch.rand(1, 2, 3, 4), info=info))
    assert not loss.requires_grad and net.params["d"][0].grad is None


def test_boxes_that_are_all_too_small_leave_the_best_one():
    with settings({"TEST.RPN_MIN_SIZE": 1000}):
        layer = make("proposal", [(1, 18, 2, 2), (1, 36, 2, 2), (1, 3)], 2, {"feat_stride": 16}, "TEST")
        scores = torch.rand(1, 18, 2, 2)
        rois, best = layer(scores, torch.zeros(1, 36, 2, 2), torch.tensor([[32.0, 32.0, 1.0]]))
    assert rois.shape == (1, 5) and best.item() == scores[:, 9:].max().item()


@pytest.mark.parametrize(
    ("rois", "gt_boxes", "reason"),
    [
        ([[1, 0, 0, 9, 9]], [[0, 0, 9, 9, 1]], "batch index other than 0"),
        ([[0, 0, 0, 9, 9]], [[0, 0, 9, 9, 3]], "classes of the ground truth lie outside 0 to 2"),
        ([[0, 0, 0, 9, 9]], np.zeros((0, 5)), "no ground-truth box"),
        ([[0, 0, 0, 9, 9]], [[0, 0, 9, 9]], "rows \\(x1, y1, x2, y2, class\\)"),
    ],
)
def test_proposal_target_refuses(rois, gt_boxes, reason):
    layer = make("proposal_target", [(1, 5), (1, 5)], 5, {"num_classes": 3})
    with settings(), pytest.raises(LayerError, match=reason):
        layer(torch.tensor(rois, dtype=torch.float32), torch.tensor(np.array(gt_boxes), dtype=torch.float32))


def test_no_roi_in_any_interval_is_named():
    layer = make("proposal_target", [(1, 5), (1, 5)], 5, {"num_classes": 3})
    with settings({"TRAIN.FG_THRESH": 1.5}), pytest.raises(LayerError, match="no RoI has an overlap"):
        layer(torch.tensor([[0.0, 50, 50, 60, 60]]), torch.tensor([[0.0, 0, 9, 9, 1]]))


def test_shares_of_a_draw_are_rounded_half_to_even():
    overlaps = np.array([0.9] * 10 + [0.3] * 30)
    with settings():
        for count, foreground in ((10, 2), (26, 6), (128, 10), (0, 0)):
            drawn, found = roi_sampling.draw_rois(overlaps, count)
            assert found == foreground and len(set(drawn)) == len(drawn) == min(count, foreground + 30)
            assert (overlaps[drawn[:found]] > 0.5).all() and (overlaps[drawn[found:]] < 0.5).all()
        assert not len(roi_sampling.draw_rois(np.empty(0), 8)[0])
        assert [roi_sampling.usable(np.array([value])) for value in (0.05, 0.1, 0.49, 0.5)] == [False, True, True, True]


# -- the data layer


def top_list() -> list[str]:
    if cfg.TRAIN.HAS_RPN:
        return ["data", "im_info", "gt_boxes"]
    return ["data", "rois", "labels", *(TARGETS if cfg.TRAIN.BBOX_REG else [])]


def entries_of(folder: Any, data: dict[str, np.ndarray], values: dict[str, Any]) -> list[dict[str, Any]]:
    entries = []
    for i in range(values["entries"]):
        image = data[f"in_im{values['image_of'][i]}"]
        path = str(folder / f"{i}.png")
        cv2.imwrite(path, image)
        entry = {
            "image": path,
            "flipped": bool(values["flipped"][i]),
            "width": image.shape[1],
            "height": image.shape[0],
        }
        keys = ("boxes", "gt_classes", "max_classes", "max_overlaps", "bbox_targets")
        entry.update((key, data[f"in_{key}{i}"].copy()) for key in keys if f"in_{key}{i}" in data)
        entries.append(entry)
    return entries


@pytest.mark.parametrize("case", names("roi_data"))
def test_batches_are_the_originals(tmp_path, case):
    data, values = load(case)
    with settings(values.get("cfg")):
        entries = entries_of(tmp_path, data, values)
        layer = make("roi_data", [], len(top_list()), {"num_classes": values["num_classes"]})
        np.random.seed(values["seed"])
        layer.set_roidb(entries)
        for step in range(values["iters"]):
            for name, top in zip(top_list(), layer()):
                want = data[f"out_{name}_it{step}"]
                close(top, want, 3e-4 / 255 if name == "data" else 1e-5)
                assert top.dtype == torch.float32
        assert np.random.randint(0, 2**31 - 1, 3).tolist() == data["out_rng_next"].tolist()


def roi_layer(tmp_path: Any, case: str, options: str = "") -> tuple[Layer, list[dict[str, Any]]]:
    data, values = load(case)
    for key, value in values["cfg"].items():
        section, _, name = key.rpartition(".")
        (cfg[section] if section else cfg)[name] = value
    entries = entries_of(tmp_path, data, values)
    layer = make("roi_data", [], len(top_list()), f"{{'num_classes': {values['num_classes']}{options}}}")
    layer.set_roidb(entries)
    return layer, entries


@pytest.mark.parametrize("case", ["roi_data__rois_two_images_multi_scale", "roi_data__rpn_multi_scale_no_grouping"])
@pytest.mark.parametrize("options", ["", ", 'prefetch': 2"])
def test_a_restored_stream_goes_on_with_the_same_batches(tmp_path, case, options):
    with settings():
        first, entries = roi_layer(tmp_path, case, options)
        for _ in range(3):
            first()
        state, numpy_state = json.loads(json.dumps(first.stream_state())), np.random.get_state()
        expected = [first() for _ in range(6)]
        second, _ = roi_layer(tmp_path, case, options)
        second()
        second.set_stream_state(state)
        np.random.set_state(numpy_state)
        for tops in expected:
            assert all(torch.equal(*pair) for pair in zip(second(), tops, strict=True))


def test_prefetching_leaves_numpys_generator_alone_and_repeats(tmp_path):
    runs = []
    with settings():
        for _ in range(2):
            randomness.seed(4)
            np.random.seed(5)
            layer, _ = roi_layer(tmp_path, "roi_data__rois_two_images_multi_scale", ", 'prefetch': 3")
            runs.append([layer() for _ in range(6)])
            assert np.random.randint(1 << 30) == np.random.RandomState(5).randint(1 << 30)
    for one, other in zip(*runs):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    assert not torch.equal(runs[0][0][1], runs[0][1][1])


def test_a_batch_with_an_image_gone_bad_is_passed_over(tmp_path, caplog):
    with settings():
        layer, entries = roi_layer(tmp_path, "roi_data__rpn_multi_scale_no_grouping")
        (tmp_path / "1.png").unlink()
        (tmp_path / "2.png").write_bytes(b"no image")
        for _ in range(12):
            layer()
        assert sorted(path[-5:] for path in layer.unreadable) == ["1.png", "2.png"]
        messages = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert len([message for message in messages if "passed over" in message]) == 2
        refusing, _ = roi_layer(tmp_path, "roi_data__rpn_multi_scale_no_grouping", ", 'unreadable': 'refuse'")
        (tmp_path / "0.png").unlink(), (tmp_path / "1.png").unlink(), (tmp_path / "3.png").unlink()
        with pytest.raises(LayerError, match="No such file"):
            for _ in range(4):
                refusing()


def test_an_image_without_a_roi_to_draw_is_passed_over(tmp_path):
    with settings():
        layer, entries = roi_layer(tmp_path, "roi_data__rois_two_images_multi_scale")
        cfg.TRAIN.IMS_PER_BATCH = 1
        entries[1]["max_overlaps"][:] = -1
        entries[2] = {**entries[2], "boxes": np.zeros((0, 4)), "gt_classes": np.zeros(0, int)}
        for key in ("max_overlaps", "max_classes", "bbox_targets"):
            entries[2][key] = entries[2][key][:0]
        layer.set_roidb(entries)
        assert all(len(layer()[1]) for _ in range(8))
        assert sorted(path[-5] for path in layer.unreadable) == ["1", "2"]
        assert "no RoI that" in " ".join(layer.unreadable.values())


def test_shapes_before_any_data_and_the_error_without():
    with settings({"TRAIN.SCALES": (30, 40), "TRAIN.MAX_SIZE": 70}):
        layer = make("roi_data", [], 6, {"num_classes": 3})
        assert layer.top_shapes([]) == [(2, 3, 40, 70), (1, 5), (1,), (1, 12), (1, 12), (1, 12)]
        with pytest.raises(LayerError, match="set_roidb"):
            layer()
        with pytest.raises(LayerError, match="makes 6 tops .*HAS_RPN False.*3 are named"):
            make("roi_data", [], 3, {"num_classes": 3})
    with pytest.raises(LayerError, match='config.use\\("py_faster_rcnn"\\)'):
        make("roi_data", [], 6, {"num_classes": 3})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox_targets": None}, "1.png: lacks bbox_targets"),
        ({"max_overlaps": np.zeros(2)}, "1.png: has 42 boxes and 2 rows of max_overlaps"),
        ({"max_classes": np.full(42, 9)}, "1.png: has proposals of a class beyond num_classes 5"),
        ({"boxes": np.zeros((42, 5))}, "1.png: boxes have shape"),
    ],
)
def test_entries_are_checked_when_they_are_handed_over(tmp_path, change, reason):
    with settings():
        layer, entries = roi_layer(tmp_path, "roi_data__rois_four_images_weights")
        entries[1] = {key: value for key, value in {**entries[1], **change}.items() if value is not None}
        with pytest.raises(LayerError, match=reason):
            layer.set_roidb(entries)


def test_batches_that_do_not_fit_are_refused(tmp_path):
    with settings():
        layer, _ = roi_layer(tmp_path, "roi_data__rois_four_images_weights")
        cfg.TRAIN.BATCH_SIZE = 41
        with pytest.raises(LayerError, match="BATCH_SIZE 41 cannot be shared by 4 images"):
            layer()
        layer, _ = roi_layer(tmp_path, "roi_data__rpn_single_scale")
        cfg.TRAIN.IMS_PER_BATCH = 2
        with pytest.raises(LayerError, match="one image at a time with TRAIN.HAS_RPN"):
            layer()
