"""Models changed on purpose: outputs before and after, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from input_layers import numbered_inputs

import caffe_bridge
from caffe_bridge import CaffeError, schema, text_format
from caffe_bridge.convert.model import Model
from caffe_bridge.convert.onnx_files import build_net
from caffe_bridge.convert.surgery import (
    cast_to_convolution,
    change_classes,
    cut,
    fold_batch_norm,
    half_weights,
    include_preprocessing,
    prune,
    rename,
    swap_channels,
)

ROOT = Path(caffe_bridge.__file__).parents[1] / "prototxt"


def make_model(body: str, *shapes: str, seed: int = 0) -> Model:
    """A model with inputs x0, x1, ..., its parameters drawn at random."""
    definition = schema.NetParameter()
    text_format.parse(numbered_inputs(*shapes) + body, definition)
    return with_weights(definition, seed)


def with_weights(definition, seed: int = 0) -> Model:
    net = caffe_bridge.Net(definition)
    generator = np.random.default_rng(seed)
    layers = {}
    for name, blobs in net.params.items():
        layers[name] = [generator.uniform(0.3, 1.2, tuple(blob.shape)).astype(np.float32) for blob in blobs]
        layers[name][0] *= generator.choice([-1, 1], layers[name][0].shape) if layers[name][0].ndim > 1 else 1
    return Model("test", layers, definition)


def run(model: Model, *blobs: str, **inputs: np.ndarray) -> dict[str, torch.Tensor]:
    net = build_net(model)
    with torch.no_grad():
        return net(**{name: torch.as_tensor(array) for name, array in inputs.items()}, blobs=blobs)


def image(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * max(1.0, wanted.abs().max().item()))


def names(model: Model) -> list[str]:
    return [layer.name for layer in model.definition.layer]


CONV = 'layer {{ name: "c" type: "{type}" bottom: "x0" top: "c" convolution_param {{ num_output: 4 {geometry} }} }}'
NORM = 'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }'
SCALE = 'layer { name: "sc" type: "Scale" bottom: "c" top: "s" scale_param { bias_term: true } }'
RELU = 'layer { name: "r" type: "ReLU" bottom: "s" top: "s" }'


class TestFold:
    @pytest.mark.parametrize(
        "linear",
        [
            CONV.format(type="Convolution", geometry="kernel_size: 3 pad: 1"),
            CONV.format(type="Convolution", geometry="kernel_size: 3 group: 2 stride: 2 bias_term: false"),
            CONV.format(type="Deconvolution", geometry="kernel_size: 3 stride: 2"),
            CONV.format(type="Deconvolution", geometry="kernel_size: 2 group: 2 bias_term: false"),
            CONV.format(type="ConvolutionDepthwise", geometry="kernel_size: 3 pad: 1 stride: 1"),
            'layer { name: "c" type: "InnerProduct" bottom: "x0" top: "c" inner_product_param { num_output: 4 } }',
            'layer { name: "c" type: "InnerProduct" bottom: "x0" top: "c" '
            "inner_product_param { num_output: 4 transpose: true bias_term: false } }",
        ],
    )
    def test_batch_norm_and_scale(self, linear):
        model = make_model(linear + NORM + SCALE + RELU, "2,4,5,6")
        folded, stays = fold_batch_norm(model)
        assert names(folded) == ["x0", "c", "r"] and not stays and set(folded.layers) == {"c"}
        x = image(2, 4, 5, 6)
        assert_close(run(folded, x0=x)["s"], run(model, x0=x)["s"])
        assert len(model.layers) == 3 and model.definition.layer[1].top == ["c"]

    @pytest.mark.parametrize(
        "layer",
        [
            'layer { name: "b" type: "BN" bottom: "c" top: "y" }',
            'layer { name: "b" type: "BN" bottom: "c" top: "y" bn_param { bn_mode: INFERENCE } }',
            'layer { name: "b" type: "Bias" bottom: "c" top: "y" }',
            'layer { name: "b" type: "Scale" bottom: "c" top: "y" }',
            'layer { name: "b" type: "Scale" bottom: "c" top: "y" scale_param { num_axes: 0 bias_term: true } }',
        ],
    )
    def test_one_layer(self, layer):
        model = make_model(CONV.format(type="Convolution", geometry="kernel_size: 3") + layer, "2,3,5,6")
        folded, stays = fold_batch_norm(model)
        assert names(folded) == ["x0", "c"] and not stays
        assert_close(run(folded, x0=image(2, 3, 5, 6))["y"], run(model, x0=image(2, 3, 5, 6))["y"])

    def test_a_factor_of_zero(self):
        model = make_model(CONV.format(type="Convolution", geometry="kernel_size: 3") + NORM, "2,3,5,6")
        model.layers["bn"][2][:] = 0
        folded, _ = fold_batch_norm(model)
        x = image(2, 3, 5, 6)
        assert_close(run(folded, x0=x)["c"], run(model, x0=x)["c"])

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (NORM.replace('"c"', '"x0"'), r"before it is 'x0' \(Input\)"),
            (
                CONV.format(type="Convolution", geometry="kernel_size: 3")
                + 'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "d" }'
                + 'layer { name: "r" type: "ReLU" bottom: "c" top: "e" }',
                "layer 'r' reads the values of 'c' as well",
            ),
            (
                CONV.format(type="Convolution", geometry="kernel_size: 3")
                + 'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" '
                "batch_norm_param { use_global_stats: false } }",
                "statistics of each batch",
            ),
            (
                CONV.format(type="Convolution", geometry="kernel_size: 3")
                + 'layer { name: "bn" type: "Scale" bottom: "c" top: "c" scale_param { axis: 2 } }',
                "not one for each channel",
            ),
            (
                'layer { name: "c" type: "InnerProduct" bottom: "x0" top: "c" '
                "inner_product_param { num_output: 4 axis: 3 } }" + NORM,
                "has axis 3",
            ),
            (
                'layer { name: "c" type: "Convolution" bottom: "x0" top: "c" param { name: "w" } '
                "convolution_param { num_output: 3 kernel_size: 1 } }"
                'layer { name: "d" type: "Convolution" bottom: "x0" top: "d" param { name: "w" } '
                "convolution_param { num_output: 3 kernel_size: 1 } }" + NORM,
                "layer 'c' shares parameters",
            ),
        ],
    )
    def test_what_stays(self, body, reason):
        model = make_model(body, "2,3,5,6")
        folded, stays = fold_batch_norm(model)
        assert list(stays) == ["bn"] and "bn" in names(folded)
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(stays["bn"])


class TestCastToConvolution:
    BODY = (
        'layer { name: "p" type: "Pooling" bottom: "x0" top: "p" pooling_param { kernel_size: 2 stride: 2 } }'
        'layer { name: "f" type: "Flatten" bottom: "p" top: "f" }'
        'layer { name: "fc6" type: "InnerProduct" bottom: "f" top: "fc6" inner_product_param { num_output: 5 } }'
        'layer { name: "r" type: "ReLU" bottom: "fc6" top: "fc6" }'
        'layer { name: "fc7" type: "InnerProduct" bottom: "fc6" top: "fc7" '
        "inner_product_param { num_output: 4 transpose: true bias_term: false } }"
        'layer { name: "prob" type: "Softmax" bottom: "fc7" top: "prob" }'
    )

    def test_same_numbers_and_maps_for_larger_images(self):
        model = make_model(self.BODY, "2,3,6,8")
        cast = cast_to_convolution(model)
        assert "f" not in names(cast) and "InnerProduct" not in {layer.type for layer in cast.definition.layer}
        assert cast.layers["fc6"][0].shape == (5, 3, 3, 4) and cast.layers["fc7"][0].shape == (4, 5, 1, 1)
        x = image(2, 3, 6, 8)
        assert_close(run(cast, x0=x)["prob"][:, :, 0, 0], run(model, x0=x)["prob"])
        wide = image(1, 3, 10, 12)
        maps = run(cast, x0=wide)["prob"]
        assert maps.shape == (1, 4, 3, 3)
        for i, j in itertools.product(range(3), range(3)):
            window = wide[:, :, 2 * i : 2 * i + 6, 2 * j : 2 * j + 8]
            assert_close(maps[:, :, i, j], run(model, x0=window)["prob"])

    def test_what_cannot_be_cast(self):
        with pytest.raises(CaffeError, match="'p' is a Pooling"):
            cast_to_convolution(make_model(self.BODY, "2,3,6,8"), ["p"])
        best = self.BODY + 'layer { name: "q" type: "ArgMax" bottom: "prob" top: "q" }'
        with pytest.raises(CaffeError, match=r"layer 'q' \(ArgMax\) does not take maps"):
            cast_to_convolution(make_model(best, "2,3,6,8"))
        joined = self.BODY + 'layer { name: "q" type: "Concat" bottom: "prob" bottom: "x1" top: "q" }'
        with pytest.raises(CaffeError, match=r"layer 'q' \(Concat\)"):
            cast_to_convolution(make_model(joined, "2,3,6,8", "2,2"))
        video = 'layer { name: "i" type: "InnerProduct" bottom: "x0" top: "y" inner_product_param { num_output: 2 } }'
        with pytest.raises(CaffeError, match="'i' cannot be cast.*shape"):
            cast_to_convolution(make_model(video, "2,3,4"))


class TestPreprocessing:
    @pytest.mark.parametrize(
        ("body", "inserted"),
        [
            (CONV.format(type="Convolution", geometry="kernel_size: 3"), []),
            (CONV.format(type="Convolution", geometry="kernel_size: 3 group: 2 bias_term: false"), []),
            (CONV.format(type="Convolution", geometry="kernel_size: 3 pad: 1"), ["x0_scale"]),
            (CONV.format(type="Deconvolution", geometry="kernel_size: 3"), ["x0_scale"]),
            (
                'layer { name: "c" type: "InnerProduct" bottom: "x0" top: "c" inner_product_param { num_output: 4 } }',
                [],
            ),
        ],
    )
    def test_mean_and_scale(self, body, inserted):
        model = make_model(body, "2,4,7,8")
        mean, scale = np.float32([104, 117, 123, 9]), np.float32([0.1, 0.2, 0.3, 0.4])
        made = include_preprocessing(model, mean, scale)
        assert [name for name in names(made) if name not in names(model)] == inserted
        x = image(2, 4, 7, 8) * 50 + 100
        wanted = run(model, x0=(x - mean[:, None, None]) * scale[:, None, None])
        assert_close(run(made, x0=x)["c"], wanted["c"])

    def test_a_scale_alone_is_exact_with_padding(self):
        model = make_model(CONV.format(type="Convolution", geometry="kernel_size: 3 pad: 1"), "2,3,7,8")
        made = include_preprocessing(model, scale=1 / 256)
        assert names(made) == names(model)
        x = image(2, 3, 7, 8)
        assert_close(run(made, x0=x)["c"], run(model, x0=x / 256)["c"])

    def test_numbers_without_a_meaning(self):
        model = make_model(CONV.format(type="Convolution", geometry="kernel_size: 3"), "2,3,7,8")
        for mean, scale, message in (
            (None, 0.0, "a scale of 0"), (None, [1, np.nan, 1], "scale 1, nan, 1 is not"), ([np.inf], 1.0, "mean inf"),
        ):  # fmt: skip
            with pytest.raises(CaffeError, match=message):
                include_preprocessing(model, mean, scale)

    def test_a_mean_image(self):
        model = make_model(CONV.format(type="Convolution", geometry="kernel_size: 3"), "2,3,7,8")
        mean = image(3, 7, 8, seed=5)
        made = include_preprocessing(model, mean, 0.5)
        assert names(made) == ["x0", "x0_bias", "c"]
        x = image(2, 3, 7, 8)
        assert_close(run(made, x0=x)["c"], run(model, x0=(x - mean) * 0.5)["c"])
        with pytest.raises(CaffeError, match="mean is an image of shape"):
            include_preprocessing(model, mean[:, :5], 0.5)

    def test_channels(self):
        for body in (
            CONV.format(type="Convolution", geometry="kernel_size: 3 pad: 1"),
            'layer { name: "c" type: "InnerProduct" bottom: "x0" top: "c" inner_product_param { num_output: 4 } }',
            'layer { name: "s" type: "Scale" bottom: "x0" top: "s" scale_param { bias_term: true } }'
            + CONV.format(type="Convolution", geometry="kernel_size: 3").replace("x0", "s"),
        ):
            model = make_model(body, "2,3,7,8")
            swapped = swap_channels(model)
            x = image(2, 3, 7, 8)
            assert_close(run(swapped, x0=x[:, ::-1].copy())["c"], run(model, x0=x)["c"])
        both = include_preprocessing(swap_channels(model), [3, 2, 1])
        assert_close(run(both, x0=x[:, ::-1].copy())["c"], run(model, x0=x - np.float32([1, 2, 3])[:, None, None])["c"])

    def test_what_is_refused(self):
        grouped = make_model(CONV.format(type="Convolution", geometry="kernel_size: 3 group: 2"), "2,4,7,8")
        with pytest.raises(CaffeError, match=r"layer 'c' \(Convolution with groups\)"):
            swap_channels(grouped)
        with pytest.raises(CaffeError, match="mean has 3 numbers, the net's input 4 channels"):
            include_preprocessing(grouped, [1, 2, 3])
        flat = make_model('layer { name: "r" type: "ReLU" bottom: "x0" top: "y" }', "2,3")
        with pytest.raises(CaffeError, match="one input .* is needed"):
            include_preprocessing(flat, 1.0)
        in_place = make_model('layer { name: "r" type: "ReLU" bottom: "x0" top: "x0" }', "2,3,4,4")
        with pytest.raises(CaffeError, match="layer 'r' changes input 'x0' in place"):
            include_preprocessing(in_place, 1.0)


class TestCut:
    BODY = (
        'layer { name: "a" type: "InnerProduct" bottom: "x0" top: "a" inner_product_param { num_output: 3 } }'
        'layer { name: "r" type: "ReLU" bottom: "a" top: "a" }'
        'layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" inner_product_param { num_output: 4 } }'
        'layer { name: "c" type: "InnerProduct" bottom: "b" top: "c" inner_product_param { num_output: 2 } }'
        'layer { name: "e" type: "InnerProduct" bottom: "x1" top: "e" inner_product_param { num_output: 2 } }'
        'layer { name: "s" type: "Eltwise" bottom: "c" bottom: "e" top: "s" }'
    )

    def test_up_to_a_blob(self):
        model = make_model(self.BODY, "2,5", "2,6")
        part = cut(model, ["b"])
        assert names(part) == ["x0", "a", "r", "b"] and set(part.layers) == {"a", "b"}
        x = image(2, 5)
        assert_close(run(part, x0=x)["b"], run(model, "b", x0=x, x1=image(2, 6))["b"])

    def test_an_output_on_the_way_is_copied(self):
        model = make_model(self.BODY, "2,5", "2,6")
        part = cut(model, ["a", "c"])
        x = image(2, 5)
        made = run(part, x0=x)
        assert set(made) == {"a_output", "c"}
        assert_close(made["a_output"], run(model, "a", x0=x, x1=image(2, 6))["a"])

    def test_from_a_blob_on(self):
        model = make_model(self.BODY, "2,5", "2,6")
        x, y = image(2, 5), image(2, 6)
        whole = run(model, "a", "b", x0=x, x1=y)
        part = cut(model, inputs=["a", "x1"])
        assert build_net(part).inputs == ["a", "x1"] and "r" not in names(part)
        assert_close(run(part, a=whole["a"], x1=y)["s"], whole["s"])
        middle = cut(model, ["c"], ["b"])
        assert names(middle) == ["b_input", "c"]
        assert_close(run(middle, b=whole["b"])["c"], run(model, "c", x0=x, x1=y)["c"])

    def test_what_is_refused(self):
        model = make_model(self.BODY, "2,5", "2,6")
        with pytest.raises(CaffeError, match="cannot cut at 'nothing'"):
            cut(model, ["nothing"])
        with pytest.raises(CaffeError, match="depend on input 'x1' too"):
            cut(model, ["s"], ["b"])
        body = (
            'layer { name: "h" type: "Slice" bottom: "x0" top: "p" top: "q" }'
            'layer { name: "t" type: "Eltwise" bottom: "p" bottom: "q" top: "y" }'
        )
        with pytest.raises(CaffeError, match="'p' cannot be an input: layer 'h'"):
            cut(make_model(body, "2,6"), ["y"], ["p", "x0"])


class TestRename:
    def test_layers_blobs_and_weights(self):
        model = make_model(TestCut.BODY, "2,5", "2,6")
        made = rename(model, {"a": "b", "b": "a", "x0": "data", "s": "sum"})
        assert names(made) == ["data", "x1", "b", "r", "a", "c", "e", "sum"]
        x, y = image(2, 5), image(2, 6)
        assert_close(run(made, data=x, x1=y)["sum"], run(model, x0=x, x1=y)["s"])
        assert made.layers["b"][0] is model.layers["a"][0]

    def test_what_is_refused(self):
        model = make_model(TestCut.BODY, "2,5", "2,6")
        with pytest.raises(CaffeError, match="cannot rename 'z'"):
            rename(model, {"z": "y"})
        with pytest.raises(CaffeError, match="layers 'a' and 'b' would both be named 'b'"):
            rename(model, {"a": "b"})


class TestPrune:
    def test_training_layers_and_what_only_they_need(self):
        body = (
            'layer { name: "a" type: "InnerProduct" bottom: "x0" top: "a" inner_product_param { num_output: 3 } }'
            'layer { name: "d" type: "Dropout" bottom: "a" top: "d" }'
            'layer { name: "d2" type: "Dropout" bottom: "d" top: "d" }'
            'layer { name: "b" type: "InnerProduct" bottom: "d" top: "b" inner_product_param { num_output: 3 } }'
            'layer { name: "q" type: "InnerProduct" bottom: "d" top: "q" inner_product_param { num_output: 3 } }'
            'layer { name: "quiet" type: "Silence" bottom: "q" }'
            'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "b" bottom: "x1" top: "loss" }'
            'layer { name: "acc" type: "Accuracy" bottom: "b" bottom: "x1" top: "acc" }'
            'layer { name: "train" type: "SoftmaxWithLoss" bottom: "b" bottom: "x1" top: "l2" '
            "include { phase: TRAIN } }"
            'layer { name: "prob" type: "Softmax" bottom: "b" top: "prob" }'
        )
        model = make_model(body, "2,5", "2")
        model.layers["unknown"] = [np.ones(3, np.float32)]
        made = prune(model)
        assert names(made) == ["x0", "a", "b", "prob"] and set(made.layers) == {"a", "b"}
        x = image(2, 5)
        assert_close(run(made, x0=x)["prob"], run(model, x0=x, x1=np.zeros(2, np.float32))["prob"])

    def test_one_of_two_inputs_of_a_layer(self):
        model = make_model("")
        text_format.parse(
            'layer { name: "in" type: "Input" top: "x" top: "y" input_param { shape { dim: 2 dim: 3 } '
            'shape { dim: 4 } } } layer { name: "r" type: "ReLU" bottom: "x" top: "z" }',
            model.definition,
        )
        made = prune(model)
        assert list(made.definition.layer[0].top) == ["x"] and build_net(made).graph.shapes["x"] == (2, 3)


class TestClasses:
    def test_a_classifier(self):
        definition = schema.NetParameter()
        text_format.parse((ROOT / "lenet" / "deploy.prototxt").read_text(), definition)
        model = with_weights(definition)
        made, anew = change_classes(model, 7)
        assert anew == ["ip2"] and made.layers["ip2"][0].shape == (7, 500) and made.layers["ip2"][1].shape == (7,)
        x = image(1, 1, 28, 28)
        assert run(made, data=x)["prob"].shape == (1, 7)
        for name in ("conv1", "conv2", "ip1"):
            assert made.layers[name][0] is model.layers[name][0]

    def test_convolutions(self):
        body = (
            'layer { name: "conv10" type: "Convolution" bottom: "x0" top: "conv10" '
            'convolution_param { num_output: 10 kernel_size: 1 weight_filler { type: "gaussian" std: 1 } } }'
            'layer { name: "r" type: "ReLU" bottom: "conv10" top: "conv10" }'
            'layer { name: "p" type: "Pooling" bottom: "conv10" top: "p" '
            "pooling_param { pool: AVE global_pooling: true } }"
            'layer { name: "prob" type: "Softmax" bottom: "p" top: "prob" }'
        )
        made, anew = change_classes(make_model(body, "1,3,5,5"), 4)
        assert anew == ["conv10"] and made.layers["conv10"][0].shape == (4, 3, 1, 1)
        assert made.layers["conv10"][0].std() > 0.3 and not made.layers["conv10"][1].any()
        assert build_net(made).graph.shapes["prob"] == (1, 4, 1, 1)

    @pytest.mark.parametrize("group", [1, 21])
    @pytest.mark.parametrize("top", ["prob", "crop"])
    def test_upsampled_scores(self, group, top):
        body = (
            'layer { name: "score" type: "Convolution" bottom: "x0" top: "score" '
            "convolution_param { num_output: 21 kernel_size: 1 } }"
            'layer { name: "up" type: "Deconvolution" bottom: "score" top: "up" convolution_param { '
            f"num_output: 21 group: {group} kernel_size: 4 stride: 2 bias_term: false }} }}"
            'layer { name: "crop" type: "Crop" bottom: "up" bottom: "x0" top: "crop" crop_param { axis: 2 offset: 1 } }'
        )
        if top == "prob":
            body += 'layer { name: "prob" type: "Softmax" bottom: "crop" top: "prob" }'
        model = make_model(body, "1,3,5,5")
        kernel = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 16
        weight = np.zeros((21, 21 // group, 4, 4), np.float32)
        weight[range(21), range(21) if group == 1 else 0] = kernel
        model.layers["up"] = [weight]
        made, anew = change_classes(model, 3)
        assert anew == ["score", "up"] and made.layers["score"][0].shape == (3, 3, 1, 1)
        columns = range(3) if group == 1 else 0
        assert (made.layers["up"][0][range(3), columns] == kernel).all()
        assert made.layers["up"][0].sum() == pytest.approx(3 * kernel.sum())
        assert build_net(made).graph.shapes[top] == (1, 3, 5, 5)

    def test_single_shot_heads(self):
        body = (
            'layer { name: "conf" type: "Convolution" bottom: "x0" top: "conf" '
            "convolution_param { num_output: 12 kernel_size: 1 } }"
            'layer { name: "perm" type: "Permute" bottom: "conf" top: "perm" '
            "permute_param { order: 0 order: 2 order: 3 } }"
            'layer { name: "flat" type: "Flatten" bottom: "perm" top: "flat" }'
            'layer { name: "shape" type: "Reshape" bottom: "flat" top: "shape" reshape_param { '
            "shape { dim: 0 dim: -1 dim: 3 } } }"
            'layer { name: "prob" type: "Softmax" bottom: "shape" top: "prob" softmax_param { axis: 2 } }'
        )
        made, anew = change_classes(make_model(body, "1,3,5,5"), 5)
        assert anew == ["conf"] and made.layers["conf"][0].shape[0] == 20
        assert build_net(made).graph.shapes["prob"] == (1, 100, 5)

    def test_what_is_refused(self):
        model = make_model('layer { name: "r" type: "ReLU" bottom: "x0" top: "y" }', "2,3,4,4")
        with pytest.raises(CaffeError, match=r"'y' does not score classes.*'x0' \(Input\)"):
            change_classes(model, 3)
        two = make_model(
            'layer { name: "s" type: "Slice" bottom: "x0" top: "y" top: "z" slice_param { axis: 0 } }', "2,3"
        )
        with pytest.raises(CaffeError, match="no layer that scores classes"):
            change_classes(two, 3)
        with pytest.raises(CaffeError, match="at least 2"):
            change_classes(model, 1)
        body = (
            'layer { name: "r" type: "LRN" bottom: "x0" top: "y" }'
            'layer { name: "s" type: "Softmax" bottom: "y" top: "z" }'
        )
        with pytest.raises(CaffeError, match=r"'r' \(LRN\), which cannot be followed"):
            change_classes(make_model(body, "2,3,4,4"), 3)


class TestHalf:
    def test_values_and_statistics(self):
        model = make_model(CONV.format(type="Convolution", geometry="kernel_size: 3") + NORM, "2,3,5,6")
        made = half_weights(model)
        assert made.layers["c"][0].dtype == np.float16 and made.layers["bn"][0].dtype == np.float32
        np.testing.assert_allclose(made.layers["c"][0], model.layers["c"][0], rtol=1e-3)
        x = image(2, 3, 5, 6)
        torch.testing.assert_close(run(made, x0=x)["c"], run(model, x0=x)["c"], rtol=1e-2, atol=1e-2)
        model.layers["c"][0][0, 0, 0, 0] = 1e5
        with pytest.raises(CaffeError, match="layer 'c', blob 0, holds 100000"):
            half_weights(model)


def test_a_model_without_definition_is_refused():
    for change in (fold_batch_norm, prune, half_weights, swap_channels, cast_to_convolution):
        with pytest.raises(CaffeError, match="holds no definition"):
            change(Model("a.caffemodel", {"c": [np.ones(2, np.float32)]}))
