"""Proposals, the databases built on them and their recall, against what py-faster-rcnn computed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from pyfrcnn_cases import RecordedNet, close, load, names, settings

from caffe_bridge import Net, Solver, detection, proposals, result_files, roidb
from caffe_bridge.config import cfg, cfg_from_file, cfg_from_list
from caffe_bridge.datasets import get_imdb, shapes
from caffe_bridge.datasets.annotation import Annotation, Table
from caffe_bridge.datasets.dataset import Dataset
from caffe_bridge.datasets.dataset import load as load_dataset
from caffe_bridge.datasets.source import Item
from caffe_bridge.datasets.voc import VOCDetection
from caffe_bridge.errors import CaffeError
from caffe_bridge.evaluation import proposal_recall
from caffe_bridge.found import Found
from caffe_bridge.testing import evaluate
from caffe_bridge.training import Trainer
from caffe_bridge.weights import read as read_weights


def dataset_of(data: dict[str, np.ndarray], values: dict[str, Any]) -> Dataset:
    annotations, sizes = [], []
    for i in range(values["num_images"]):
        truth = data[f"in_gt_boxes{i}"].astype(np.int32)
        classes = data[f"in_gt_classes{i}"]
        annotations.append(Annotation(truth.reshape(-1, 4), classes, np.zeros(len(classes), bool), None))
        sizes.append(data[f"in_im{i}"].shape[:2])
    classes = ("__background__", *(f"c{i}" for i in range(1, values["num_classes"])))
    items = [Item(f"{i}", f"{i}.png") for i in range(len(sizes))]
    return Dataset("recorded", classes, items, [Table.of(annotations, sizes, False)], False)


def given(data: dict[str, np.ndarray], values: dict[str, Any]) -> list[np.ndarray] | None:
    found = [data.get(f"in_proposals{i}") for i in range(values["num_images"])]
    return None if found[0] is None else found


def assert_entries(entries: list[dict[str, Any]], data: dict[str, np.ndarray]) -> None:
    for i, entry in enumerate(entries):
        close(entry["boxes"], data[f"out_boxes{i}"])
        assert entry["gt_classes"].tolist() == data[f"out_gt_classes{i}"].tolist()
        assert entry["flipped"] == bool(data[f"out_flipped{i}"])
        overlaps = data[f"out_gt_overlaps{i}"]
        close(entry["max_overlaps"], overlaps.max(1))
        assert entry["max_classes"].tolist() == overlaps.argmax(1).tolist()
    assert f"out_boxes{len(entries)}" not in data


@pytest.mark.parametrize("case", names("roidb"))
def test_training_database(case):
    data, values = load(case)
    dataset = dataset_of(data, values)
    with settings(values.get("cfg")):
        entries = roidb.build(dataset, cfg.TRAIN.USE_FLIPPED, given(data, values))
        mean, deviation = roidb.add_regression_targets(entries, dataset.num_classes)
    assert_entries(entries, data)
    for i, entry in enumerate(entries):
        close(entry["bbox_targets"], data[f"out_bbox_targets{i}"])
        assert entry["max_classes"].tolist() == data[f"out_max_classes{i}"].tolist()
    close(mean.ravel(), data["out_means"])
    close(deviation.ravel(), data["out_stds"])
    originals = [int(entry["name"]) for entry in entries if not entry["flipped"]]
    assert originals == [number for number in data["out_kept"].tolist() if number < values["num_images"]]


def write_voc(folder: Path, data: dict[str, np.ndarray], values: dict[str, Any]) -> list[str]:
    """VOC's folders for a recorded case; returns the images' names."""
    root = folder / f"VOC{values['year']}"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / name).mkdir(parents=True)
    images = [f"{i + 1:06d}" for i in range(values["num_images"])]
    (root / "ImageSets" / "Main" / f"{values['image_set']}.txt").write_text("\n".join(images))
    for i, name in enumerate(images):
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), data[f"in_im{i}"])
        objects = ""
        for *box, label, difficult in data[f"in_objects{i}"].tolist():
            sides = zip(("xmin", "ymin", "xmax", "ymax"), box)
            corners = "".join(f"<{side}>{corner}</{side}>" for side, corner in sides)
            objects += f"<object><name> {values['names'][label].title()}</name><difficult>{difficult}</difficult>"
            objects += f"<bndbox>{corners}</bndbox></object>"
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    return images


@pytest.mark.parametrize("case", names("voc"))
def test_pascal_voc(case, tmp_path):
    data, values = load(case)
    write_voc(tmp_path, data, values)
    dataset = load_dataset(case, VOCDetection(str(tmp_path), values["year"], values["image_set"]))
    found = given(data, values)
    if values["method"] == "selective_search":
        path = tmp_path / "boxes.mat"
        cells = np.empty(values["num_images"], object)
        cells[:] = [data[f"in_ss{i}"] for i in range(values["num_images"])]
        scipy.io.savemat(path, {"boxes": cells})
        found = proposals.read(str(path))
    if values.get("use_diff"):
        assert [dataset.annotation(i).boxes.tolist() for i in range(dataset.num_images)] == [
            data[f"out_boxes{i}"].tolist() for i in range(values["num_images"])
        ]
        return
    with settings(values.get("cfg")):
        if "without_gt" in case:
            nothing = {"boxes": np.zeros((0, 4), np.int32), "width": 1, "flipped": False}
            nothing |= {key: np.zeros(0, np.int32) for key in ("gt_classes", "max_classes", "max_overlaps")}
            assert_entries([roidb.with_proposals(nothing, boxes) for boxes in found], data)
        else:
            cfg.TRAIN.BG_THRESH_LO = 0.0
            assert_entries(roidb.build(dataset, values["flip"], found), data)
    if values["evaluate"]:
        assert_evaluation(dataset, data, values, tmp_path)


def assert_evaluation(dataset: Dataset, data: dict[str, np.ndarray], values: dict[str, Any], folder: Path) -> None:
    nothing, found = np.zeros(0), []
    for i in range(values["num_images"]):
        rows = data[f"in_dets{i}"]
        masks = np.zeros((len(rows), 0, 0), bool)
        found.append(Found(rows[:, 1:], rows[:, 0].astype(np.int64), masks, nothing, nothing.astype(np.int64)))
    report = evaluate(dataset, found, "det", use_07_metric=values["year"] == "2007")
    dataset.name = f"voc_{values['year']}_{values['image_set']}"
    result_files.write_voc(folder, dataset, found)
    text = ""
    for label in values["text_classes"]:
        assert report.boxes[label - 1].ap == pytest.approx(float(data[f"out_ap_c{label}"]), abs=1e-9)
        name = f"comp4_det_{values['image_set']}_{values['names'][label]}.txt"
        text += (folder / name).read_text()
    assert text == str(data["out_results_text"])


@pytest.mark.parametrize("case", names("recall"))
def test_recall(case):
    data, values = load(case)
    images = range(values["num_images"])
    boxes, found = ([data[f"in_{name}{i}"] for i in images] for name in ("gt_boxes", "proposals"))
    for area in values["areas"]:
        recall = proposal_recall(found, boxes, area, values["limit"])
        close(recall.overlaps, data[f"out_gt_overlaps_{area}"])
        close(recall.thresholds, data[f"out_thresholds_{area}"])
        close(recall.recalls, data[f"out_recalls_{area}"])
        close(recall.average, data[f"out_ar_{area}"])


def test_recall_without_objects_or_proposals():
    box = np.array([[0, 0, 9, 9.0], [20, 20, 29, 29]])
    assert np.isnan(proposal_recall([box], [box[:0]]).average)
    assert proposal_recall([box[:0]], [box]).average == 0
    assert proposal_recall([box[:1]], [box]).overlaps.tolist() == [0, 1]
    assert proposal_recall([box], [box], thresholds=[1.0]).recalls.tolist() == [1]
    with pytest.raises(CaffeError, match="no range of areas is called 'tiny'"):
        proposal_recall([box], [box], "tiny")


def test_proposals_of_an_rpn():
    data, values = load("rpn_generate__two_images")
    with settings(values["cfg"]):
        for i in range(values["num_images"]):
            net = RecordedNet({f"in_{name}": data[f"in_net_{name}{i}"] for name in ("rois", "scores")})
            boxes, scores = proposals.propose(net, data[f"in_im{i}"])
            close(boxes, data[f"out_boxes{i}"])
            close(scores, data[f"in_net_scores{i}"])
            np.testing.assert_allclose(net.asked["data"], data[f"out_data{i}"], atol=3e-4)
            close(net.asked["im_info"], data[f"out_im_info{i}"])


def test_settings_are_accepted_as_the_original_accepts_them(tmp_path):
    data, values = load("merge_config__accepted_or_not")
    for text, outcome in zip(values["yaml"], data["out_yaml"]):
        path = tmp_path / "settings.yml"
        path.write_text(text)
        with settings():
            accepted = _accepted(lambda path=path: cfg_from_file(path))
        assert accepted == (outcome == 0), text
    for pair, outcome in zip(values["set"], data["out_set"]):
        with settings():
            accepted = _accepted(lambda pair=pair: cfg_from_list(pair))
        assert accepted == (outcome == 0 or pair[1] == "(400,)"), pair


def _accepted(merge: Any) -> bool:
    try:
        merge()
    except CaffeError:
        return False
    return True


# -- snapshots

SNAPSHOT_NET = """
layer {{ name: "data" type: "Python" top: "data" top: "rois" top: "labels" {tops}
        python_param {{ module: "roi_data_layer.layer" layer: "RoIDataLayer" param_str: "'num_classes': 3" }} }}
layer {{ name: "x" type: "DummyData" top: "x" dummy_data_param {{ shape {{ dim: 1 dim: 6 }} }} }}
layer {{ name: "{name}" type: "InnerProduct" bottom: "x" top: "y" inner_product_param {{ num_output: 12 }} }}
layer {{ name: "cls_score" type: "InnerProduct" bottom: "x" top: "c" inner_product_param {{ num_output: 3 }} }}
layer {{ name: "cls_prob" type: "Softmax" bottom: "c" top: "p" }}
layer {{ name: "loss" type: "Reduction" bottom: "y" top: "loss" loss_weight: 1 }}
"""


@pytest.mark.parametrize("case", names("snapshot"))
def test_snapshots_predict_plain_boxes(case, tmp_path):
    """Weights are given a recorded step instead of one of their own, and saved when the original saved them."""
    data, values = load(case)
    with settings(values["cfg"]):
        dataset = dataset_of(data, values)
        tops = [f'top: "bbox_{name}"' for name in ("targets", "inside_weights", "outside_weights")]
        net = SNAPSHOT_NET.format(name=values["layer_name"], tops=" ".join(tops) if cfg.TRAIN.BBOX_REG else "")
        (tmp_path / "net.prototxt").write_text(net)
        solver = f'train_net: "{tmp_path}/net.prototxt" base_lr: 0 lr_policy: "fixed" snapshot_prefix: "vgg"'
        trainer = Trainer(solver, folder=tmp_path / "out")
        found, path = given(data, values), None
        if found is None:
            cfg.TRAIN.PROPOSAL_METHOD = "gt"
        else:
            path = str(tmp_path / "proposals.safetensors")
            proposals.write(path, found)
        assert trainer.feed(dataset, path) == int(data["out_entries"])
        weight, bias = (blob.data for blob in trainer.net.params[values["layer_name"]])
        weight.copy_(torch.from_numpy(data["in_weight"])), bias.copy_(torch.from_numpy(data["in_bias"]))
        for number, want in enumerate(data["out_filenames"].tolist()):
            iteration = int(want.rpartition("_")[2].partition(".")[0])
            while trainer.iter < iteration:
                weight += torch.from_numpy(data["in_step_weight"])
                bias += torch.from_numpy(data["in_step_bias"])
                trainer.iter += 1
            trainer.snapshot()
            assert Path(trainer.saved).name == want
            saved = read_weights(trainer.saved).layers[values["layer_name"]]
            close(saved[0], data[f"out_weight{number}"])
            close(saved[1], data[f"out_bias{number}"])
        close(weight, data["out_weight_after"])
        close(bias, data["out_bias_after"])


# -- files


def test_files_come_back(tmp_path):
    path = str(tmp_path / "proposals.pkl")
    boxes = [np.array([[1, 2, 3, 4.5]], np.float32), np.zeros((0, 4), np.float32)]
    proposals.write(path, boxes)
    for got, want in zip(proposals.read(path), boxes, strict=True):
        np.testing.assert_array_equal(got, want)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        Path(path).write_bytes(pickle.dumps([box.astype(np.uint16) for box in boxes], protocol))
        assert [box.shape for box in proposals.read(path)] == [(1, 4), (0, 4)]
    with pytest.raises(CaffeError, match="cannot be written"):
        proposals.write(str(tmp_path / "none" / "x.pkl"), boxes)


def test_pickles_of_python_2_are_read(tmp_path):
    """As numpy 1 under Python 2 wrote them, protocol 2."""
    data = np.array([[1, 2, 3, 4]], "<f4").tobytes()
    pickled = b"\x80\x02]cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    pickled += b"(K\x01K\x01K\x04\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
    pickled += b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    pickled += b"\x89U" + bytes([len(data)]) + data + b"tba."
    (tmp_path / "old.pkl").write_bytes(pickled)
    assert proposals.read(str(tmp_path / "old.pkl"))[0].tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "no pickled list of arrays"),
        (b"\x80\x02garbage", "no pickled list"),
        (pickle.dumps({"a": 1}), "holds no list of arrays"),
        (pickle.dumps([1, 2]), "holds no list of arrays"),
        (pickle.dumps([np.zeros((2, 5))]), "image 0 are no boxes"),
        (pickle.dumps([np.array([None])]), "arrays of type 'O8' are no numbers"),
        (pickle.dumps([np.zeros((2, 4))], 2).replace(b"K\x02K\x04", b"J\xff\xff\xff\x7fK\x04"), "has 64 bytes"),
        (b"cbuiltins\nbytes\n(I100000000000\ntR.", "no pickled list"),
        (b"c_codecs\nencode\n(S'a'\nS'hex'\ntR.", "encoding 'hex'"),
        (pickle.dumps(Path("x")), "it asks for pathlib"),
        (b"cposix\nsystem\n(S'true'\ntR.", "it asks for posix.system"),
    ],
)
def test_pickles_that_are_something_else(tmp_path, content, reason):
    path = tmp_path / "proposals.pkl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CaffeError, match=reason):
        proposals.read(str(path))


def test_damaged_selective_search_files(tmp_path):
    path = tmp_path / "boxes.mat"
    with pytest.raises(CaffeError, match="No such file"):
        proposals.read(str(path))
    path.write_bytes(b"MATLAB 5.0 MAT-file, cut off")
    with pytest.raises(CaffeError, match="no readable cell array"):
        proposals.read(str(path))
    scipy.io.savemat(path, {"other": 1})
    with pytest.raises(CaffeError, match="no readable cell array"):
        proposals.read(str(path))
    cells = np.empty(1, object)
    cells[0] = np.zeros((3, 5))
    scipy.io.savemat(path, {"boxes": cells})
    with pytest.raises(CaffeError, match="image 0 are no boxes"):
        proposals.read(str(path))


def test_proposals_outside_and_images_without_are_named(caplog):
    data, values = load("roidb__rpn_proposals_empirical")
    dataset = dataset_of(data, values)
    found = given(data, values)
    inside = [len(boxes) for boxes in proposals.fitting(dataset, found)]
    assert inside == [len(boxes) for boxes in found] and not caplog.records
    found[0] = np.concatenate([found[0], [[0, 0, 500, 5], [np.nan, 0, 5, 5], [9, 0, 5, 5], [-0.5, 0, 5, 5]]])
    found[2] = np.zeros((0, 4))
    fitting = proposals.fitting(dataset, found)
    assert [len(boxes) for boxes in fitting] == [inside[0] + 1, inside[1], 0, inside[3]]
    assert "left out: 0: 3 of 18" in caplog.text and "1 images have no proposal: 2" in caplog.text
    with settings({"TRAIN.BG_THRESH_LO": 0.0}):
        entries = roidb.build(dataset, True, fitting)
        roidb.add_regression_targets(entries, dataset.num_classes)
    assert len(entries) == 8 and len(entries[2]["boxes"]) == len(data["in_gt_boxes2"])
    with pytest.raises(CaffeError, match="has 4 images, there are proposals for 3"):
        proposals.fitting(dataset, found[:3])
    with settings({"TRAIN.FG_THRESH": 2.0}), pytest.raises(CaffeError, match="no proposal of its 4 images"):
        roidb.build(dataset, False, [np.zeros((0, 4))] * 4)


# -- from an RPN's proposals to a trained detector

RPN = """
input: "data" input_shape { dim: 1 dim: 3 dim: 64 dim: 72 } input: "im_info" input_shape { dim: 1 dim: 3 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 8 kernel_size: 16 stride: 16 weight_filler { type: "gaussian" std: 0.001 } } }
layer { name: "scores" type: "Convolution" bottom: "conv" top: "cls"
        convolution_param { num_output: 12 kernel_size: 1 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "deltas" type: "Convolution" bottom: "conv" top: "deltas"
        convolution_param { num_output: 24 kernel_size: 1 weight_filler { type: "gaussian" std: 0.001 } } }
layer { name: "prob" type: "Sigmoid" bottom: "cls" top: "prob" }
layer { name: "proposal" type: "Python" bottom: "prob" bottom: "deltas" bottom: "im_info" top: "rois" top: "scores"
        python_param { module: "rpn.proposal_layer" layer: "ProposalLayer"
                       param_str: "{'feat_stride': 16, 'scales': [1, 2]}" } }
"""
DETECTOR = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 8 kernel_size: 16 stride: 16 weight_filler { type: "gaussian" std: 0.001 } } }
layer { name: "pool" type: "ROIPooling" bottom: "conv" bottom: "rois" top: "pool"
        roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.0625 } }
layer { name: "cls_score" type: "InnerProduct" bottom: "pool" top: "cls_score"
        inner_product_param { num_output: CLASSES weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "bbox_pred" type: "InnerProduct" bottom: "pool" top: "bbox_pred"
        inner_product_param { num_output: COLUMNS weight_filler { type: "gaussian" std: 0.001 } } }
"""
TRAINED = """
layer { name: "data" type: "Python" top: "data" top: "rois" top: "labels" top: "bbox_targets"
        top: "bbox_inside_weights" top: "bbox_outside_weights"
        python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer" param_str: "'num_classes': CLASSES" } }
DETECTOR
layer { name: "loss_cls" type: "SoftmaxWithLoss" bottom: "cls_score" bottom: "labels" top: "loss_cls" }
layer { name: "loss_bbox" type: "SmoothL1Loss" bottom: "bbox_pred" bottom: "bbox_targets"
        bottom: "bbox_inside_weights" bottom: "bbox_outside_weights" top: "loss_bbox" }
"""
TESTED = """
input: "data" input_shape { dim: 1 dim: 3 dim: 64 dim: 72 } input: "rois" input_shape { dim: 1 dim: 5 }
DETECTOR
layer { name: "cls_prob" type: "Softmax" bottom: "cls_score" top: "cls_prob" }
"""


def test_alternating_training(tmp_path):
    shapes.make(str(tmp_path / "shapes"), 6, 0, (64, 72))
    small = {"SCALES": (64,), "MAX_SIZE": 80, "RPN_MIN_SIZE": 4}
    changes = {f"{phase}.{key}": value for phase in ("TRAIN", "TEST") for key, value in small.items()}
    with settings({**changes, "TRAIN.BG_THRESH_LO": 0.0, "TRAIN.BATCH_SIZE": 16}):
        dataset = get_imdb("shapes_train", tmp_path / "shapes")
        images = [cv2.imread(path) for path in dataset.image_paths]
        rpn = Net(RPN, phase="TEST")
        path = str(tmp_path / "proposals.pkl")
        proposals.write(path, [proposals.propose(rpn, image)[0].numpy() for image in images])
        found = proposals.fitting(dataset, proposals.read(path))
        assert all(len(boxes) for boxes in found)

        def net_of(text: str) -> str:
            text = text.replace("DETECTOR", DETECTOR).replace("COLUMNS", str(4 * dataset.num_classes))
            return text.replace("CLASSES", str(dataset.num_classes))

        (tmp_path / "train.prototxt").write_text(net_of(TRAINED))
        solver = Solver(f'train_net: "{tmp_path}/train.prototxt" base_lr: 0.001 lr_policy: "fixed" display: 0')
        entries = roidb.build(dataset, True, found)
        roidb.add_regression_targets(entries, dataset.num_classes)
        solver.net.graph.nodes[0].layer.set_roidb(entries)
        before = [parameter.detach().clone() for parameter in solver.net.parameters()]
        solver.step(3)
        moved = [not torch.equal(*pair) for pair in zip(before, solver.net.parameters())]
        assert all(moved) and all(bool(p.isfinite().all()) for p in solver.net.parameters())
        tested = Net(net_of(TESTED), phase="TEST")
        solver.net.save(tmp_path / "trained.caffemodel")
        tested.load(tmp_path / "trained.caffemodel")
        scores, boxes = detection.detect(tested, images[0], found[0])
        assert scores.shape == (len(found[0]), dataset.num_classes) and boxes.shape == (
            len(found[0]),
            4 * scores.shape[1],
        )
        assert sum(map(len, detection.best_detections(scores, boxes, 5, 0.0))) >= 5
