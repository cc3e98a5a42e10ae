"""The generated definitions: in step with their generator, and wired as the cascade is."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from caffe_bridge import CaffeError, LayerError, Net, config, detection, recipe, registry, roidb, schema, text_format
from caffe_bridge.layers import image_feed
from caffe_bridge.tools import make_prototxt
from caffe_bridge.tools.models.catalogue import DEFINITIONS
from caffe_bridge.tools.models.render import net_message

ROOT = Path(__file__).parent.parent
PUBLISHED = ("mnc5", "cfm", "faster_rcnn")
SETTINGS = {
    "mnc5": "VGG16/mnc_5stage",
    "mnc5_tiny": "mnc5_tiny",
    "mnc5_resnet50": "ResNet50/mnc_5stage",
    "mnc5_resnet101": "ResNet101/mnc_5stage",
    "cfm": "VGG16/cfm",
    "cfm_tiny": "cfm_tiny",
    "faster_rcnn": "VGG16/faster_rcnn_end2end",
    "faster_rcnn_tiny": "faster_rcnn_tiny",
}


def read(path, message=None):
    message = schema.NetParameter() if message is None else message
    text_format.parse(path.read_text(), message, str(path))
    return message


def committed(name, phase):
    return read(ROOT / "prototxt" / name / f"{phase}.prototxt")


def layers(net):
    return {layer.name: layer for layer in net.layer}


def options(layer):
    return yaml.safe_load(layer.python_param.param_str)


def test_committed_files_are_in_step(capsys):
    assert make_prototxt.main(["--check"]) == 0, capsys.readouterr().err


def test_check_finds_what_is_edited_or_missing(tmp_path, capsys):
    assert make_prototxt.main(["mnc5", "--out", str(tmp_path)]) == 0
    solver = tmp_path / "mnc5" / "solver.prototxt"
    solver.write_text(solver.read_text().replace("0.001", "0.002"))
    (tmp_path / "mnc5" / "test.prototxt").unlink()
    assert make_prototxt.main(["mnc5", "--check", "--out", str(tmp_path)]) == 1
    assert [Path(line.split()[0]).name for line in capsys.readouterr().err.splitlines()] == [
        "test.prototxt",
        "solver.prototxt",
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["mnc6"], "no definition is called 'mnc6'"),
        (["mnc5", "--classes", "1", "--out", "x"], "needs at least 2"),
        (["mnc5", "--classes", "3"], "--out"),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(CaffeError, match=message):
        make_prototxt.main(arguments)


@pytest.mark.parametrize("phase", ["train", "test"])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_bottom_is_made_and_names_are_unique(name, phase):
    net = committed(name, phase)
    made = set(net.input)
    for layer in net.layer:
        assert set(layer.bottom) <= made, layer.name
        assert set(layer.top) & made <= set(layer.bottom), f"{layer.name} makes a blob again"
        made.update(layer.top)
        assert len(layer.propagate_down) in (0, len(layer.bottom)), layer.name
    assert len(layers(net)) == len(net.layer)


@pytest.mark.parametrize(
    "name, phase, count, parameters",
    [
        ("mnc5", "train", 103, 25),
        ("mnc5", "test", 88, 25),
        ("cfm", "train", 56, 22),
        ("cfm", "test", 52, 22),
        ("faster_rcnn", "train", 54, 20),
        ("faster_rcnn", "test", 48, 20),
    ],
)
def test_published_layers_and_parameterised_layers(name, phase, count, parameters):
    net = committed(name, phase)
    assert len(net.layer) == count
    owners = [layer for layer in net.layer if layer.type in ("Convolution", "InnerProduct")]
    assert (
        len({layer.param[0].name if layer.param and layer.param[0].name else layer.name for layer in owners})
        == parameters
    )


@pytest.mark.parametrize("name", ["mnc5", "mnc5_tiny"])
@pytest.mark.parametrize("phase", ["train", "test"])
def test_second_round_shares_every_parameter_with_the_first(name, phase):
    by_name = layers(committed(name, phase))
    repeated = [layer for layer in by_name.values() if layer.type == "InnerProduct" and layer.name.endswith("_ext")]
    assert len(repeated) == 9
    for layer in repeated:
        first = by_name[layer.name.removesuffix("_ext")]
        assert [spec.name for spec in layer.param] == [f"{first.name}_w", f"{first.name}_b"]
        assert layer.param == first.param and layer.inner_product_param == first.inner_product_param


@pytest.mark.parametrize("name", DEFINITIONS)
def test_train_and_test_networks_have_parameters_of_one_shape(name):
    def weights(phase):
        return {
            layer.name: layer.inner_product_param.num_output or layer.convolution_param.num_output
            for layer in committed(name, phase).layer
            if layer.type in ("InnerProduct", "Convolution")
        }

    assert weights("train") == weights("test")


@pytest.mark.parametrize("family", PUBLISHED)
@pytest.mark.parametrize("phase", ["train", "test"])
def test_tiny_is_the_same_network_above_the_trunk(family, phase):
    """Dropout apart, which a net that learns for minutes is better without."""

    def above_trunk(name):
        names = [layer.name for layer in committed(name, phase).layer]
        last = max(i for i, layer in enumerate(names) if layer.startswith("relu5_"))
        rest = [layer for layer in committed(name, phase).layer[last + 1 :] if layer.type != "Dropout"]
        return [(layer.name, layer.type, list(layer.top)) for layer in rest]

    assert above_trunk(f"{family}_tiny") == above_trunk(family)


def test_losses_of_the_cascade_and_their_weights():
    losses = {layer.top[0]: layer.loss_weight[0] for layer in committed("mnc5", "train").layer if layer.loss_weight}
    assert losses == {
        "rpn_cls_loss": 1,
        "rpn_loss_bbox": 1,
        **{f"{name}{suffix}": 1 for name in ("cls_loss", "seg_cls_loss", "bbox_loss") for suffix in ("", "_ext")},
        "loss_mask": 2,
        "loss_mask_ext": 2,
    }


def test_published_trunks_freeze_two_blocks_and_tiny_ones_nothing():
    for name in PUBLISHED:
        by_name = layers(committed(name, "train"))
        frozen = {n for n, layer in by_name.items() if layer.param and all(spec.lr_mult == 0 for spec in layer.param)}
        assert frozen == {"conv1_1", "conv1_2", "conv2_1", "conv2_2"}
        for layer in committed(f"{name}_tiny", "train").layer:
            assert all(spec.lr_mult > 0 for spec in layer.param)
            if layer.type in ("Convolution", "InnerProduct"):
                filler = layer.convolution_param if layer.type == "Convolution" else layer.inner_product_param
                assert filler.HasField("weight_filler"), layer.name


@pytest.mark.parametrize("name", ["mnc5_tiny", "faster_rcnn_tiny"])
@pytest.mark.parametrize("phase", ["train", "test"])
def test_anchors_of_the_tiny_networks(name, phase):
    by_name = layers(committed(name, phase))
    settings = options(by_name["proposal"])
    anchors = len(settings["scales"]) * len(settings.get("ratios", (0.5, 1, 2)))
    assert settings["feat_stride"] == 8
    assert by_name["rpn_cls_score"].convolution_param.num_output == 2 * anchors
    assert by_name["rpn_bbox_pred"].convolution_param.num_output == 4 * anchors
    assert by_name["rpn_cls_prob_reshape"].reshape_param.shape.dim[1] == 2 * anchors
    if phase == "train":
        assert options(by_name["rpn-data"])["scales"] == settings["scales"]
    warping = next(layer for layer in by_name.values() if layer.type == "ROIWarping")
    assert warping.roi_warping_param.spatial_scale == 1 / 8


def test_anchor_layers_read_their_scales():
    by_name = layers(committed("mnc5_tiny", "train"))
    for name in ("proposal", "rpn-data"):
        param = by_name[name]
        made = registry.python_layer_class(param.python_param.module, param.python_param.layer)
        bottoms = [(1, 18, 4, 5), (1, 36, 4, 5), (1, 3), (1, 1), (1, 1)][: len(param.bottom)]
        layer = made(param, bottoms, "TRAIN")
        widths = layer.anchors[3:6, 2] - layer.anchors[3:6, 0] + 1
        assert widths.tolist() == [24, 48, 96], "the square ones, 16 times each scale"
        param.python_param.param_str = "{'feat_stride': 8, 'scales': [2, -4]}"
        with pytest.raises(LayerError, match="'scales' is a number above 0, not -4"):
            made(param, bottoms, "TRAIN")


def test_other_numbers_of_anchors_resize_the_network():
    definition = DEFINITIONS["faster_rcnn"]
    model = dataclasses.replace(definition.model, anchor_scales=(4, 8), anchor_ratios=(1,))
    by_name = layers(net_message(dataclasses.replace(definition, model=model), train=True))
    assert by_name["rpn_bbox_pred"].convolution_param.num_output == 8
    assert options(by_name["rpn-data"]) == {"feat_stride": 16, "scales": [4, 8], "ratios": [1]}


@pytest.mark.parametrize("name", PUBLISHED)
def test_another_number_of_classes_changes_what_depends_on_it_and_nothing_else(name, tmp_path):
    assert make_prototxt.main([name, "--classes", "5", "--out", str(tmp_path)]) == 0
    for phase in ("train", "test"):
        published = committed(name, phase)
        variant = read(tmp_path / name / f"{phase}.prototxt")
        for old, new in zip(published.layer, variant.layer, strict=True):
            outputs = {21: 5, 84: 20}.get(old.inner_product_param.num_output)
            if outputs:
                old.inner_product_param.num_output = outputs
            if "num_classes" in old.python_param.param_str:
                old.python_param.param_str = old.python_param.param_str.replace("21", "5")
            assert new == old


@pytest.mark.parametrize("name", DEFINITIONS)
def test_solvers_name_the_net_beside_them(name):
    directory = ROOT / "prototxt" / name
    solver = read(directory / "solver.prototxt", schema.SolverParameter())
    assert (directory / solver.train_net).is_file() and not Path(solver.train_net).is_absolute()
    assert solver.snapshot == 0 and solver.snapshot_prefix
    expected = {"mnc5": (20000, 8), "cfm": (20000, 8), "faster_rcnn": (50000, 2)}
    if name in expected:
        assert (solver.stepsize, solver.iter_size) == expected[name]
        assert solver.base_lr == pytest.approx(0.001) and solver.lr_policy == "step"


@pytest.mark.parametrize("name", DEFINITIONS)
def test_settings_fit_their_definition(name):
    config.cfg_from_file(ROOT / "experiments" / "cfgs" / f"{SETTINGS[name]}.yml")
    tops = layers(committed(name, "train"))
    assert config.cfg.CFM_MODE == (tops["input-data"].python_param.layer == "CFMDataLayer")
    assert config.cfg.MNC_MODE == ("stage_bridge" in tops)
    if "roi-data" in tops:
        assert config.cfg.TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED
        assert config.cfg.TRAIN.MIX_INDEX == ("fg_inds" in tops["roi-data"].top)
    if "mask_pred" in tops:
        assert tops["mask_pred"].inner_product_param.num_output == config.cfg.MASK_SIZE**2


# -- py-faster-rcnn's

BY_TRUNK = {
    "zf": ("roi_pool_conv5", 6, 256, 4096),
    "vgg_cnn_m_1024": ("roi_pool5", 6, 256, 1024),
    "vgg16": ("roi_pool5", 7, 512, 4096),
}


@pytest.mark.parametrize("trunk", BY_TRUNK)
@pytest.mark.parametrize("phase", ["train", "test"])
def test_detectors_have_the_published_layers(trunk, phase):
    """Names that released weights go by, and sizes."""
    pooling, side, channels, last = BY_TRUNK[trunk]
    by_name = layers(committed(f"faster_rcnn_{trunk}", phase))
    assert by_name[pooling].roi_pooling_param.pooled_w == side
    assert by_name[pooling].roi_pooling_param.spatial_scale == 1 / 16
    assert by_name["rpn_conv/3x3"].convolution_param.num_output == channels
    assert [by_name[name].inner_product_param.num_output for name in ("fc6", "fc7", "cls_score", "bbox_pred")] == [
        4096,
        last,
        21,
        84,
    ]
    assert by_name["proposal"].python_param.module == "rpn.proposal_layer"
    assert by_name["drop6"].dropout_param.scale_train == (trunk != "zf")
    convolutions = [name for name, layer in by_name.items() if layer.type == "Convolution" and name.startswith("conv")]
    assert convolutions == {
        "vgg16": [f"conv{block}_{i}" for block, count in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, count + 1)]
    }.get(trunk, [f"conv{i}" for i in range(1, 6)])


@pytest.mark.parametrize("trunk", ["zf", "vgg_cnn_m_1024"])
def test_trunks_normalise_as_published(trunk):
    by_name = layers(committed(f"faster_rcnn_{trunk}", "train"))
    norm, pool = by_name["norm1"].lrn_param, by_name["pool1"].pooling_param
    if trunk == "zf":
        assert (norm.local_size, norm.norm_region, pool.pad) == (3, norm.WITHIN_CHANNEL, 1)
        assert norm.alpha == pytest.approx(0.00005)
    else:
        assert (norm.local_size, norm.k, pool.pad) == (5, 2, 0) and norm.alpha == pytest.approx(0.0005)
        assert by_name["conv1"].param[0].lr_mult == 0
    assert by_name["conv2"].param[0].lr_mult == 1


def test_coco_has_more_anchors_and_classes():
    by_name = layers(committed("faster_rcnn_vgg16_coco", "train"))
    assert options(by_name["rpn-data"])["scales"] == [4, 8, 16, 32]
    assert by_name["rpn_bbox_pred"].convolution_param.num_output == 48
    assert by_name["cls_score"].inner_product_param.num_output == 81 and "drop6" not in by_name


@pytest.mark.parametrize("name", ["zf", "vgg_cnn_m_1024", "vgg16", "tiny"])
def test_four_steps_hand_every_parameter_on(name):
    """Each net keeps what the next needs, trains what is its own, and leaves the common trunk alone the second time."""
    folder = ROOT / "prototxt" / f"faster_rcnn_alt_opt_{name}"

    def owners(file):
        net = read(folder / f"{file}.prototxt")
        return {layer.name: layer for layer in net.layer if layer.type in ("Convolution", "InnerProduct")}

    whole, rpn_test = owners("faster_rcnn_test"), owners("rpn_test")
    for stage in (1, 2):
        rpn, detector = owners(f"stage{stage}_rpn_train"), owners(f"stage{stage}_fast_rcnn_train")
        assert detector.keys() == whole.keys()
        assert rpn.keys() == whole.keys() - {"cls_score", "bbox_pred"}
        assert rpn_test.keys() == rpn.keys() - {"fc6", "fc7"}
        trained = {
            kind: {layer for layer, message in net.items() if message.param[0].lr_mult > 0}
            for kind, net in (("rpn", rpn), ("detector", detector))
        }
        assert {layer for layer in trained["rpn"] if not layer.startswith("conv")} == {
            layer for layer in rpn if layer.startswith("rpn_")
        }
        heads = {layer for layer in trained["detector"] if not layer.startswith("conv")}
        assert heads == {"fc6", "fc7", "cls_score", "bbox_pred"}
        assert any(layer.startswith("conv") for layer in trained["rpn"] | trained["detector"]) == (stage == 1)
        for kind in ("rpn", "fast_rcnn"):
            solver = read(folder / f"stage{stage}_{kind}_solver.prototxt", schema.SolverParameter())
            assert solver.train_net == f"stage{stage}_{kind}_train.prototxt" and solver.snapshot_prefix.endswith(kind)


@pytest.mark.parametrize("name", ["faster_rcnn_zf", "faster_rcnn_vgg_cnn_m_1024", "fast_rcnn_zf"])
def test_detectors_run_and_learn(name, monkeypatch):
    """Forward in both phases, and a training step, on little images and thin fully connected layers."""

    def thinner(phase):
        net = committed(name, phase)
        for layer in net.layer:
            if layer.name in ("fc6", "fc7"):
                layer.inner_product_param.num_output = 32
        return net

    config.use("py_faster_rcnn")
    cfg = config.cfg
    cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.IMS_PER_BATCH, cfg.TRAIN.BG_THRESH_LO = 8, 1, 0.0
    cfg.TRAIN.HAS_RPN = name.startswith("faster")
    cfg.TRAIN.SCALES = cfg.TEST.SCALES = (160,)
    image = np.random.RandomState(0).randint(0, 255, (160, 200, 3), np.uint8)
    net = Net(thinner("test"), phase="TEST")
    recipe.fill(net)
    boxes = np.array([[5.0, 5, 60, 70], [30, 20, 90, 80]])
    scores, found = detection.detect(net, image, None if cfg.TRAIN.HAS_RPN else boxes)
    assert scores.shape == (len(found), 21) and found.shape[1] == 84
    monkeypatch.setattr(image_feed, "read_image", lambda path: image)
    entry = {"image": "x.png", "width": 200, "height": 160, "flipped": False, "boxes": boxes[:1].astype(np.int32)}
    entry |= {"gt_classes": np.array([7]), "max_classes": np.array([7]), "max_overlaps": np.ones(1, np.float32)}
    entries = [entry if cfg.TRAIN.HAS_RPN else roidb.with_proposals(entry, boxes)]
    roidb.add_regression_targets(entries, 21)
    net = Net(thinner("train"), phase="TRAIN")
    recipe.fill(net)
    net.graph.nodes[0].layer.set_roidb(entries)
    net.loss(net()).backward()
    for layer in ("conv5", "fc6", "bbox_pred", *(["rpn_conv/3x3"] if cfg.TRAIN.HAS_RPN else [])):
        gradient = net.params[layer][0].grad
        assert gradient is not None and gradient.isfinite().all() and gradient.abs().sum() > 0, layer


@pytest.mark.parametrize("name", ["faster_rcnn_end2end", "faster_rcnn_alt_opt", "faster_rcnn_alt_opt_tiny"])
def test_settings_of_detectors_are_py_faster_rcnns(name):
    config.use("py_faster_rcnn")
    config.cfg_from_file(ROOT / "experiments" / "cfgs" / f"{name}.yml")
    assert config.cfg.EXP_DIR == name and config.cfg.TEST.HAS_RPN
    assert config.cfg.TRAIN.HAS_RPN == config.cfg.TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED == ("end2end" in name)
