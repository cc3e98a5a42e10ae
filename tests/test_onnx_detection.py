"""Layers that make, cut and choose boxes, exported to ONNX: other sizes, settings and targets than were recorded."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx_cases
import pytest
import torch
from input_layers import input_layers

import caffe_bridge
from caffe_bridge import LayerError, recipe
from caffe_bridge.config import cfg
from caffe_bridge.convert.onnx_export import export_onnx, exported_types
from caffe_bridge.convert.onnx_export.export import TARGETS
from caffe_bridge.convert.onnx_export.verification import TOLERANCE, difference, errors, random_inputs, rows_difference
from caffe_bridge.errors import CaffeError
from caffe_bridge.registry import layer_types, python_layers

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

PROTOTXT = Path(caffe_bridge.__file__).parents[1] / "prototxt"


def make_net(body: str, **shapes: tuple[int, ...]) -> caffe_bridge.Net:
    return caffe_bridge.Net(input_layers(**shapes) + body, phase="TEST")


def run(net: caffe_bridge.Net, path: Path, inputs: dict[str, np.ndarray], **options) -> tuple[list, list]:
    """What onnxruntime and the net give for the net's outputs."""
    export_onnx(net, path, **options)
    onnx.checker.check_model(str(path), full_check=True)
    return again(net, path, inputs)


def again(net: caffe_bridge.Net, path: Path, inputs: dict[str, np.ndarray]) -> tuple[list, list]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(None, inputs)
    outputs = net(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return got, [outputs[name].detach().numpy() for name in net.outputs]


def assert_close(results: tuple[list, list]) -> None:
    for got, wanted in zip(*results, strict=True):
        assert difference(got, wanted) <= TOLERANCE, (got.shape, wanted.shape)


def dims(path: Path) -> dict[str, list[int | str]]:
    model = onnx.load(path)
    infos = [*model.graph.input, *model.graph.output]
    return {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in infos}


def rpn_inputs(seed: int, anchors: int, height: int, width: int, columns: int = 3) -> dict[str, np.ndarray]:
    """Foreground scores without ties, deltas, and im_info of an image of these many cells."""
    generator = np.random.default_rng(seed)
    count = 2 * anchors * height * width
    scores = generator.permutation(np.linspace(0.01, 0.99, count, dtype=np.float32)).reshape(1, -1, height, width)
    deltas = generator.standard_normal((1, 4 * anchors, height, width), np.float32) * 0.4
    info = np.float32([[16 * height - 3, 16 * width - 5, 1.3, 1.7][:columns]])
    return {"scores": scores, "deltas": deltas, "info": info}


def proposal_net(
    module: str, tops: str = 'top: "rois"', options: str = "{'feat_stride': 16}", anchors: int = 9, size=(9, 12)
):
    body = (
        f'layer {{ name: "p" type: "Python" bottom: "scores" bottom: "deltas" bottom: "info" {tops} '
        f'python_param {{ module: "{module}" layer: "ProposalLayer" param_str: "{options}" }} }}'
    )
    return make_net(body, scores=(1, 2 * anchors, *size), deltas=(1, 4 * anchors, *size), info=(1, 3))


class TestRecordedCases:
    names = [name for name in onnx_cases.names() if name.startswith(("mnc/", "pyfrcnn/"))]

    def test_every_operation_of_a_test_net_has_cases(self):
        assert {name.split("__")[0] for name in self.names} == {
            *(f"mnc/{name}" for name in ("proposal", "roi_pooling", "roi_warping", "mask_pooling", "mask_resize")),
            *("mnc/mask_layer", "mnc/stage_bridge", "pyfrcnn/proposal"),
        }

    @pytest.mark.parametrize("name", names)
    def test_case(self, name, tmp_path):
        case = onnx_cases.load(name)
        with case.configured():
            net = case.net()
            assert_close(run(net, tmp_path / "a.onnx", case.inputs))
            assert_close(run(net, tmp_path / "b.onnx", case.inputs, target="opencv5", dynamic=False))


class TestProposals:
    @pytest.mark.parametrize("module", ["pylayer.proposal_layer", "rpn.proposal_layer"])
    @pytest.mark.parametrize("seed", range(4))
    def test_other_sizes_and_settings(self, module, seed, tmp_path):
        draw = random.Random(seed)
        cfg.TEST.RPN_PRE_NMS_TOP_N = draw.choice([0, 50, 6000])
        cfg.TEST.RPN_POST_NMS_TOP_N = draw.choice([0, 7, 300])
        cfg.TEST.RPN_NMS_THRESH = draw.choice([0.3, 0.7])
        cfg.TEST.RPN_MIN_SIZE = draw.choice([0, 16, 40])
        cfg.USE_GPU_NMS = draw.choice([True, False])
        net = proposal_net(module, 'top: "rois" top: "more"')
        assert_close(run(net, tmp_path / "a.onnx", rpn_inputs(seed, 9, 9, 12)))
        assert dims(tmp_path / "a.onnx")["rois"] == ["rois_0", 5]
        assert dims(tmp_path / "a.onnx")["scores"] == [1, 18, "height", "width"]
        for size in ((4, 5), (20, 31)):
            assert_close(again(net, tmp_path / "a.onnx", rpn_inputs(seed, 9, *size)))

    def test_own_anchors(self, tmp_path):
        net = proposal_net(
            "pylayer.proposal_layer", options="{'feat_stride': 8, 'scales': [2, 4], 'ratios': [0.3, 1]}", anchors=4
        )
        assert_close(run(net, tmp_path / "a.onnx", rpn_inputs(0, 4, 9, 12)))

    def test_the_best_box_stays_when_all_are_too_small(self, tmp_path):
        cfg.TEST.RPN_MIN_SIZE = 5000
        net = proposal_net("pylayer.proposal_layer")
        got, wanted = run(net, tmp_path / "a.onnx", rpn_inputs(0, 9, 9, 12))
        assert got[0].shape == (1, 5)
        assert_close((got, wanted))

    def test_equal_scores_keep_the_order_of_the_anchors(self, tmp_path):
        inputs = rpn_inputs(0, 9, 9, 12)
        inputs["scores"][:] = 0.5
        assert_close(run(proposal_net("rpn.proposal_layer"), tmp_path / "a.onnx", inputs))

    @pytest.mark.parametrize(("inclusive", "count"), [(False, 2), (True, 1)])
    def test_an_overlap_of_exactly_the_threshold(self, inclusive, count, tmp_path):
        """Boxes of 10 and 20 by 10 pixels that share one corner overlap by half."""
        cfg.TEST.RPN_NMS_THRESH, cfg.USE_GPU_NMS, cfg.TEST.RPN_MIN_SIZE = 0.5, not inclusive, 0
        net = proposal_net("rpn.proposal_layer", options="{'feat_stride': 16, 'scales': [1]}", anchors=3, size=(1, 1))
        inputs = rpn_inputs(0, 3, 1, 1)
        inputs["info"][:] = 100
        with torch.no_grad():
            anchors = torch.tensor(net.graph.nodes[-1].layer.anchors, dtype=torch.float32)
            for i, wanted in enumerate(([0, 0, 9, 9], [0, 0, 19, 9], [60, 60, 70, 70])):
                size, box = anchors[i, 2:] - anchors[i, :2] + 1, torch.tensor(wanted, dtype=torch.float32)
                centre = (box[:2] + box[2:]) / 2 - anchors[i, :2] - size / 2
                deltas = torch.cat([centre / size, ((box[2:] - box[:2]) / size).log()])
                inputs["deltas"][0, 4 * i : 4 * i + 4, 0, 0] = deltas.numpy()
        got, wanted = run(net, tmp_path / "a.onnx", inputs)
        assert len(got[0]) == len(wanted[0]) == count + 1

    @pytest.mark.parametrize("columns", [3, 4])
    def test_the_layer_of_later_forks(self, columns, tmp_path):
        body = (
            'layer { name: "p" type: "Proposal" bottom: "scores" bottom: "deltas" bottom: "info" top: "rois" top: "s" '
            "proposal_param { ratio: 0.5 ratio: 1 scale: 4 scale: 9 pre_nms_topn: 90 post_nms_topn: 20 min_size: 12 } }"
        )
        net = make_net(body, scores=(1, 8, 9, 12), deltas=(1, 16, 9, 12), info=(1, columns))
        assert_close(run(net, tmp_path / "a.onnx", rpn_inputs(1, 4, 9, 12, columns)))
        assert_close(again(net, tmp_path / "a.onnx", rpn_inputs(1, 4, 3, 4, columns)))


class TestRegions:
    @staticmethod
    def rois(seed: int, count: int, images: int, height: int, width: int) -> np.ndarray:
        """RoIs in pixels of a map of 1/8, some beyond it, empty, or ending before they begin."""
        generator = np.random.default_rng(seed)
        corners = generator.uniform(-0.3, 1.3, (count, 4)) * [width, height, width, height] * 8
        ordered = np.concatenate(
            [np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1
        )
        corners = np.where(generator.random((count, 1)) < 0.8, ordered, corners)
        corners[0, 2:] = corners[0, :2]
        return np.column_stack([generator.integers(0, images, count), corners]).astype(np.float32)

    @pytest.mark.parametrize("target", TARGETS)
    @pytest.mark.parametrize(
        ("layer", "channels"),
        [
            ('type: "ROIPooling" roi_pooling_param { pooled_h: 3 pooled_w: 5 spatial_scale: 0.125 }', 3),
            ('type: "ROIWarping" roi_warping_param { pooled_h: 4 pooled_w: 3 spatial_scale: 0.125 }', 3),
            ('type: "PSROIPooling" psroi_pooling_param { output_dim: 2 group_size: 3 spatial_scale: 0.125 }', 18),
        ],
    )
    @pytest.mark.parametrize("size", [(7, 9), (1, 1), (16, 4), (33, 8)])
    def test_any_roi_and_map(self, layer, channels, size, target, tmp_path):
        body = f'layer {{ name: "l" {layer} bottom: "features" bottom: "rois" top: "y" }}'
        net = make_net(body, features=(2, channels, *size), rois=(17, 5))
        features = np.random.default_rng(0).standard_normal((2, channels, *size), np.float32)
        inputs = {"features": features, "rois": self.rois(0, 17, 2, *size)}
        assert_close(run(net, tmp_path / "a.onnx", inputs, target=target))
        found = dims(tmp_path / "a.onnx")
        assert found["rois"] == ["rois", 5] and found["y"][0] == "rois"
        for count in (1, 0, 40):
            inputs["rois"] = self.rois(count, max(count, 1), 2, *size)[:count]
            assert_close(again(net, tmp_path / "a.onnx", inputs))
        if target == "onnxruntime":
            assert found["features"] == ["batch", channels, "height", "width"]
            inputs = {"features": np.resize(features, (3, channels, 11, 6)), "rois": self.rois(3, 8, 3, 11, 6)}
            assert_close(again(net, tmp_path / "a.onnx", inputs))

    def test_later_opsets(self, tmp_path):
        body = (
            'layer { name: "l" type: "ROIPooling" bottom: "features" bottom: "rois" top: "y" '
            "roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.125 } }"
        )
        net = make_net(body, features=(1, 2, 6, 7), rois=(4, 5))
        inputs = {"features": np.random.default_rng(0).standard_normal((1, 2, 6, 7), np.float32)}
        inputs["rois"] = self.rois(0, 4, 1, 6, 7)
        for opset in (18, 21, 22):
            assert_close(run(net, tmp_path / "a.onnx", inputs, opset=opset))

    def test_rois_of_four_axes(self, tmp_path):
        body = (
            'layer { name: "l" type: "ROIPooling" bottom: "features" bottom: "rois" top: "y" '
            "roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.125 } }"
        )
        net = make_net(body, features=(1, 2, 6, 6), rois=(4, 5, 1, 1))
        inputs = {"features": np.random.default_rng(0).standard_normal((1, 2, 6, 6), np.float32)}
        inputs["rois"] = self.rois(0, 4, 1, 6, 6).reshape(4, 5, 1, 1)
        assert_close(run(net, tmp_path / "a.onnx", inputs))


SSD = "num_classes: 4 share_location: {share} background_label_id: {background} nms_param {{ {nms} }} {more}"


class TestDetectionOutput:
    @pytest.mark.parametrize("seed", range(12))
    def test_any_parameters(self, seed, tmp_path):
        draw, priors, share = random.Random(seed), 30, bool(seed % 2)
        code = draw.choice(["CORNER", "CENTER_SIZE", "CORNER_SIZE"])
        nms = f"nms_threshold: {draw.choice([0, 0.2, 0.5, 1.5])}"
        nms += draw.choice(["", " top_k: 9", " top_k: 400", " top_k: 12 eta: 0.9"])
        more = f"code_type: {code} variance_encoded_in_target: {draw.choice(['true', 'false'])}"
        more += draw.choice([" keep_top_k: 5", " keep_top_k: 500", ""])
        more += draw.choice([" confidence_threshold: 0.3", " confidence_threshold: -0.5", ""])
        text = SSD.format(
            share=str(share).lower(), background=0 if share else draw.choice([0, 2, -1]), nms=nms, more=more
        )
        net, inputs = self.net(text, priors, 1 if share else 4), self.inputs(seed, priors, 1 if share else 4, 2)
        assert_close(run(net, tmp_path / "a.onnx", inputs))
        assert dims(tmp_path / "a.onnx")["y"] == [1, 1, "y_2", 7]
        assert_close(again(net, tmp_path / "a.onnx", self.inputs(seed + 99, priors, 1 if share else 4, 5)))
        if "eta" not in nms:
            assert_close(run(net, tmp_path / "b.onnx", inputs, target="opencv5"))

    @pytest.mark.parametrize("more", ["confidence_threshold: 2", "keep_top_k: 0"])
    def test_nothing_found(self, more, tmp_path):
        text = SSD.format(share="true", background=0, nms="nms_threshold: 0.5", more=more)
        got, wanted = run(self.net(text, 30, 1), tmp_path / "a.onnx", self.inputs(0, 30, 1, 2))
        assert got[0].shape == (1, 1, 2, 7) and (got[0][0, 0, :, 0] == [0, 1]).all()
        assert_close((got, wanted))

    def test_shrinking_thresholds_do_not_run_in_opencv(self, tmp_path):
        text = SSD.format(share="true", background=0, nms="eta: 0.5", more="")
        with pytest.raises(LayerError, match=r"layer 'l' \(DetectionOutput\).*OpenCV 5 does not run"):
            export_onnx(self.net(text, 30, 1), tmp_path / "a.onnx", target="opencv5")

    @staticmethod
    def net(text: str, priors: int, locations: int) -> caffe_bridge.Net:
        body = (
            'layer { name: "l" type: "DetectionOutput" bottom: "codes" bottom: "scores" bottom: "priors" top: "y" '
            f"detection_output_param {{ {text} }} }}"
        )
        return make_net(body, codes=(2, priors * locations * 4), scores=(2, priors * 4), priors=(1, 2, priors * 4))

    @staticmethod
    def inputs(seed: int, priors: int, locations: int, images: int) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(seed)
        near = generator.random((priors, 2)) * 0.7
        boxes = np.concatenate([near, near + generator.uniform(0.1, 0.4, (priors, 2))], 1)
        variances = np.tile([0.1, 0.1, 0.2, 0.2], (priors, 1))
        scores = generator.permutation(np.linspace(-0.6, 1, images * priors * 4))
        return {
            "codes": generator.standard_normal((images, priors * locations * 4), np.float32) * 0.7,
            "scores": scores.reshape(images, -1).astype(np.float32),
            "priors": np.stack([boxes.ravel(), variances.ravel()])[None].astype(np.float32),
        }


class TestWholeNets:
    @pytest.mark.parametrize("target", TARGETS)
    @pytest.mark.parametrize("name", ["mnc5_tiny", "faster_rcnn_tiny"])
    def test_detectors_are_one_graph_for_images_of_any_size(self, name, target, tmp_path):
        net = caffe_bridge.Net(PROTOTXT / name / "test.prototxt")
        recipe.fill(net)
        with torch.no_grad():
            net.params["conv1_1"][0].mul_(64 * 4)
        path = tmp_path / "a.onnx"
        export_onnx(net, path, target=target)
        onnx.checker.check_model(str(path), full_check=True)
        for size in ((224, 224), (160, 256)):
            inputs = {blob: tensor.numpy() for blob, tensor in recipe.inputs(*size).items()}
            found = errors(net, path, inputs)
            assert set(found) > set(net.outputs) and max(found.values()) <= TOLERANCE, found
        found = dims(path)
        assert all(found[blob][0] == "rois_0" for blob in net.outputs)
        assert found["data"] == [1, 3, "height", "width"]

    def test_prepared_regions_are_as_many_as_one_likes(self, tmp_path):
        net = caffe_bridge.Net(PROTOTXT / "cfm_tiny" / "test.prototxt")
        recipe.fill(net)
        path = tmp_path / "a.onnx"
        export_onnx(net, path)
        found = dims(path)
        assert found["data"] == ["batch", 3, "height", "width"] and found["rois"] == ["rois", 5]
        assert found["masks"] == ["rois", 1, 14, 14] and all(found[blob][0] == "rois" for blob in net.outputs)
        inputs = random_inputs(net)
        for count in (1, 6):
            inputs["rois"], inputs["masks"] = np.resize(inputs["rois"], (count, 5)), np.ones((count, 1, 14, 14), "f")
            assert max(errors(net, path, inputs).values()) <= TOLERANCE

    def test_every_inference_layer_has_an_export(self):
        """What has none reads data, is for training, or ends in a loss."""
        without = {*layer_types(), *(".".join(names) for names in python_layers())} - set(exported_types())
        assert {name for name in without if not name.endswith(("Loss", "Data", "DataLayer"))} == {
            *("Accuracy", "BoxAnnotatorOHEM", "DetectionEvaluate", "HDF5Output", "Input"),
            *(f"{package}.anchor_target_layer.AnchorTargetLayer" for package in ("pylayer", "rpn")),
            *(f"{package}.proposal_target_layer.ProposalTargetLayer" for package in ("pylayer", "rpn")),
        }

    def test_unknown_targets(self, tmp_path):
        with pytest.raises(CaffeError, match="target must be onnxruntime or opencv5, not 'x'"):
            export_onnx(TestDetectionOutput.net("num_classes: 4", 30, 1), tmp_path / "a.onnx", target="x")


class TestRowsDifference:
    def test_order_and_single_rows_do_not_count(self):
        rows = np.random.default_rng(0).random((200, 5))
        assert rows_difference(rows[::-1], rows) == 0
        assert rows_difference(rows[:199], rows) == 0
        assert rows_difference(rows + 1e-5, rows) == pytest.approx(1e-5)

    def test_too_many_other_rows_count(self):
        rows = np.random.default_rng(0).random((200, 5))
        assert rows_difference(rows[:190], rows) == np.inf
        changed = rows.copy()
        changed[::20] += 0.1
        assert rows_difference(changed, rows) == np.inf
        assert rows_difference(rows[:, :4], rows) == np.inf
