"""Nets exported to ONNX compute in onnxruntime what they compute here."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import onnx_cases
import pytest
import torch
from input_layers import numbered_inputs
from layer_cases import REFERENCE

import caffe_bridge
from caffe_bridge import CaffeError, LayerError, WeightsError, registry
from caffe_bridge.cli import run
from caffe_bridge.convert.formats import convert
from caffe_bridge.convert.onnx_export import export_onnx, exported_types, exports
from caffe_bridge.convert.onnx_export import registry as onnx_registry
from caffe_bridge.convert.onnx_export.export import external_name
from caffe_bridge.convert.onnx_export.verification import difference, errors, random_inputs
from caffe_bridge.layers.base import Layer
from caffe_bridge.tools import onnx_table
from caffe_bridge.tools.convert import main

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TOLERANCE = 1e-4
FILES = REFERENCE / "files"
DEPLOY, PLAIN = FILES / "deploy.prototxt", FILES / "plain.caffemodel"


def make_net(body: str, *shapes: str) -> caffe_bridge.Net:
    """A net with inputs x0, x1, ... and its parameters drawn at random."""
    net = caffe_bridge.Net(numbered_inputs(*shapes) + body, phase="TEST")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_(0.2, 1)
    return net


def exported(net: caffe_bridge.Net, path: Path, **options) -> onnx.ModelProto:
    export_onnx(net, path, **options)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model


def dims(model: onnx.ModelProto, name: str) -> list[int | str]:
    infos = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    (info,) = [info for info in infos if info.name == name]
    return [d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim]


def assert_same(net: caffe_bridge.Net, path: Path, inputs=None) -> None:
    found = errors(net, path, inputs)
    assert found and max(found.values()) <= TOLERANCE, found


class TestRecordedCases:
    names = [name for name in onnx_cases.names() if name.startswith(("layers/", "forks/", "made/"))]

    def test_most_inference_layers_have_cases(self):
        families = {name.split("/")[1].rsplit("_", 1)[0] for name in self.names}
        assert len(families) > 60 and {"LSTM", "PoolingMask", "Upsample_SegNet", "BN_PSPNet", "SPP"} <= families

    @pytest.mark.parametrize("name", names)
    def test_case(self, name, tmp_path):
        case = onnx_cases.load(name)
        net = case.net()
        model = exported(net, tmp_path / "a.onnx")
        assert_same(net, tmp_path / "a.onnx", case.inputs)
        for blob in net.outputs:
            assert len(dims(model, blob)) == len(net.graph.shapes[blob])
        self.check_other_sizes(net, tmp_path / "a.onnx", model)
        if name.endswith("_0"):
            exported(net, tmp_path / "b.onnx", opset=20, dynamic=False, target="opencv5")
            assert_same(net, tmp_path / "b.onnx", case.inputs)

    @staticmethod
    def check_other_sizes(net, path, model):
        """Where sizes are left open the model must follow: any size the net itself takes gives the net's values."""
        for more in ({"batch": 2}, {"height": 1}, {"width": 3}, {"batch": 1, "height": 4, "width": 2}):
            inputs = {}
            for blob, array in random_inputs(net).items():
                shape = [size + more.get(d, 0) for size, d in zip(array.shape, dims(model, blob))]
                inputs[blob] = np.resize(array, shape)
            if all(inputs[blob].shape == net.graph.shapes[blob] for blob in inputs):
                continue
            try:
                outputs = net(**{blob: torch.from_numpy(array) for blob, array in inputs.items()})
            except LayerError:
                continue
            for state in (node.layer for node in net.graph.nodes if hasattr(node.layer, "reset")):
                state.reset()
            assert set(outputs) == set(net.outputs)
            assert_same(net, path, inputs)


class TestPooling:
    @pytest.mark.parametrize("seed", range(24))
    def test_any_geometry_and_size(self, seed, tmp_path):
        draw = random.Random(seed)
        kernel, stride = draw.randint(1, 5), draw.randint(1, 6)
        pad = draw.randint(0, kernel - 1)
        method = draw.choice(["MAX", "AVE"])
        mode = draw.choice(["CEIL", "FLOOR"])
        net = make_net(
            f'layer {{ name: "p" type: "Pooling" bottom: "x0" top: "y" pooling_param {{ pool: {method} '
            f"kernel_size: {kernel} stride: {stride} pad: {pad} round_mode: {mode} }} }}",
            "2,3,11,14",
        )
        model = exported(net, tmp_path / "a.onnx")
        assert dims(model, "x0") == ["batch", 3, "height", "width"]
        assert not any(a.name == "ceil_mode" for node in model.graph.node for a in node.attribute)
        for height, width in ((11, 14), (12, 13), (8, 9), (23, 10)):
            self.compare(net, tmp_path / "a.onnx", (1, 3, height, width))

    @staticmethod
    def compare(net, path, shape):
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        wanted = net(x0=torch.from_numpy(x))["y"].numpy()
        # Caffe divides by 0 where a window lies wholly beyond the image; that is the one value not reproduced.
        (got,) = session(path).run(None, {"x0": x})
        assert got.shape == wanted.shape
        assert difference(np.where(np.isnan(wanted), 0, got), np.nan_to_num(wanted)) <= TOLERANCE

    @pytest.mark.parametrize("geometry", [(1, 3, 0), (3, 2, 2), (2, 2, 1), (3, 5, 1), (3, 2, 0)])
    def test_masks(self, geometry, tmp_path):
        kernel, stride, pad = geometry
        net = make_net(
            'layer { name: "p" type: "Pooling" bottom: "x0" top: "y" top: "mask" '
            f"pooling_param {{ kernel_size: {kernel} stride: {stride} pad: {pad} }} }}",
            "2,3,7,9",
        )
        exported(net, tmp_path / "a.onnx")
        for size in ((7, 9), (8, 6), (13, 10)):
            x = np.random.default_rng(0).standard_normal((2, 3, *size), np.float32)
            assert_same(net, tmp_path / "a.onnx", {"x0": x})

    def test_unpooling_fixes_the_image(self, tmp_path):
        net = make_net(
            'layer { name: "p" type: "Pooling" bottom: "x0" top: "p" top: "m" '
            "pooling_param { kernel_size: 2 stride: 2 } }"
            'layer { name: "u" type: "Upsample" bottom: "p" bottom: "m" top: "y" upsample_param { scale: 2 } }',
            "2,3,8,10",
        )
        model = exported(net, tmp_path / "a.onnx")
        assert dims(model, "x0") == ["batch", 3, 8, 10] and dims(model, "y") == ["batch", 3, 8, 10]
        x = np.random.default_rng(0).standard_normal((5, 3, 8, 10), np.float32)
        assert_same(net, tmp_path / "a.onnx", {"x0": x})


def session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


SPECIAL_CASES = {
    "stochastic": (
        'layer { name: "r" type: "ReLU" bottom: "x0" top: "x0" } layer { name: "l" type: "Pooling" bottom: "x0" '
        'top: "y" pooling_param { pool: STOCHASTIC kernel_size: 3 stride: 2 } }',
        "2,3,8,9",
    ),
    "overhang": (
        'layer { name: "l" type: "Convolution" bottom: "x0" top: "y" '
        "convolution_param { num_output: 2 kernel_size: 5 stride: 3 } }",
        "2,3,4,9",
    ),
    "dropped weights": (
        'layer { name: "l" type: "Dropout" bottom: "x0" top: "y" '
        "dropout_param { dropout_ratio: 0.25 scale_train: false } }",
        "2,3",
    ),
    "batch statistics": (
        'layer { name: "l" type: "BatchNorm" bottom: "x0" top: "y" batch_norm_param { use_global_stats: false } }',
        "4,3,5,6",
    ),
}


class TestWholeNets:
    @pytest.mark.parametrize("name", SPECIAL_CASES)
    def test_what_was_not_recorded(self, name, tmp_path):
        net = make_net(*SPECIAL_CASES[name])
        exported(net, tmp_path / "a.onnx")
        assert_same(net, tmp_path / "a.onnx")

    def test_in_place_layers_and_names(self, tmp_path):
        net = make_net(
            'layer { name: "r0" type: "TanH" bottom: "x0" top: "x0" }'
            'layer { name: "ip/1" type: "InnerProduct" bottom: "x0" top: "ip" inner_product_param { num_output: 3 } }'
            'layer { name: "r1" type: "ReLU" bottom: "ip" top: "ip" }'
            'layer { name: "d" type: "Dropout" bottom: "ip" top: "ip" }'
            'layer { name: "s" type: "Split" bottom: "ip" top: "a" top: "b" }'
            'layer { name: "t" type: "Sigmoid" bottom: "x0" top: "x0" }',
            "2,5",
        )
        model = exported(net, tmp_path / "a.onnx")
        assert [info.name for info in model.graph.input] == ["x0"]
        assert [info.name for info in model.graph.output] == ["a", "b", "x0/t"] and net.outputs == ["a", "b", "x0"]
        assert {tensor.name for tensor in model.graph.initializer} == {"ip/1.0", "ip/1.1"}
        assert_same(net, tmp_path / "a.onnx")

    def test_shared_weights_are_stored_once(self, tmp_path):
        body = "".join(
            f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
            f'param {{ name: "w" }} param {{ name: "b" }} inner_product_param {{ num_output: 5 }} }}'
            for name, bottom in (("a", "x0"), ("b", "a"))
        )
        net = make_net(body, "2,5")
        model = exported(net, tmp_path / "a.onnx")
        assert {tensor.name for tensor in model.graph.initializer} == {"a.0", "a.1"}
        assert_same(net, tmp_path / "a.onnx")

    def test_sizes_stay_open_as_far_as_layers_allow(self, tmp_path):
        fully_convolutional = (
            'layer { name: "c" type: "Convolution" bottom: "x0" top: "c" '
            "convolution_param { num_output: 4 kernel_size: 3 stride: 2 } }"
            'layer { name: "u" type: "Deconvolution" bottom: "c" top: "u" '
            "convolution_param { num_output: 2 kernel_size: 4 stride: 2 } }"
            'layer { name: "k" type: "Crop" bottom: "u" bottom: "x0" top: "y" }'
        )
        net = make_net(fully_convolutional.replace('"x0" top: "y"', '"x0" top: "y" crop_param { axis: 2 }'), "1,3,9,9")
        model = exported(net, tmp_path / "a.onnx")
        assert dims(model, "y") == ["batch", 2, "height", "width"]
        assert dims(model, "c") == ["batch", 4, "c_2", "c_3"]
        dense = 'layer { name: "l" type: "InnerProduct" bottom: "x0" top: "y" inner_product_param { num_output: 3 } }'
        net = make_net(dense, "1,3,5,6")
        model = exported(net, tmp_path / "a.onnx")
        assert dims(model, "x0") == ["batch", 3, 5, 6] and dims(model, "y") == ["batch", 3]
        assert_same(net, tmp_path / "a.onnx", {"x0": np.ones((7, 3, 5, 6), np.float32)})
        model = exported(net, tmp_path / "a.onnx", dynamic=False)
        assert dims(model, "x0") == [1, 3, 5, 6]

    def test_rounding_of_strides_does_not_open_sizes(self, tmp_path):
        net = make_net(
            'layer { name: "p" type: "Pooling" bottom: "x0" top: "p" pooling_param { kernel_size: 5 stride: 5 } }'
            'layer { name: "l" type: "InnerProduct" bottom: "p" top: "y" inner_product_param { num_output: 3 } }',
            "1,2,11,11",
        )
        assert net(x0=torch.zeros(1, 2, 12, 12))["y"].shape == (1, 3)
        assert dims(exported(net, tmp_path / "a.onnx"), "x0") == ["batch", 2, 11, 11]
        assert_same(net, tmp_path / "a.onnx")

    @pytest.mark.parametrize("name", ["lenet", "cifar10_quick", "cifar10_full"])
    def test_nets_of_the_distribution(self, name, tmp_path):
        net = caffe_bridge.Net(Path(caffe_bridge.__file__).parents[1] / "prototxt" / name / "deploy.prototxt")
        exported(net, tmp_path / "a.onnx")
        assert_same(net, tmp_path / "a.onnx")


class TestExternalData:
    def test_large_weights_lie_beside_the_model(self, tmp_path):
        body = 'layer { name: "l" type: "InnerProduct" bottom: "x0" top: "y" inner_product_param { num_output: 99 } }'
        net = make_net(body, "2,77")
        path = tmp_path / "my net.onnx"
        export_onnx(net, path, external_above=1000)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["my net.onnx", "my_net.onnx.data"]
        model = onnx.load(path, load_external_data=False)
        stored = {tensor.name: {e.key: e.value for e in tensor.external_data} for tensor in model.graph.initializer}
        assert stored["l.0"] == {"location": "my_net.onnx.data", "offset": "0", "length": str(99 * 77 * 4)}
        assert stored["l.1"] == {}
        assert_same(net, path)

    @pytest.mark.parametrize("name", ["a.onnx", "..onnx", "a b\\c:d.onnx", "ünï.onnx", "-x'\".onnx", "..\\..\\a.onnx"])
    def test_names_are_safe(self, name, tmp_path):
        found = external_name(str(tmp_path / name))
        assert found.endswith(".data") and not found.startswith(".")
        assert set(found) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class _Cube(Layer):
    """x^3."""

    def forward(self, bottom):
        return bottom**3


class TestErrors:
    @pytest.mark.parametrize(
        ("layer", "message"),
        [
            ('type: "Cube"', r"layer 'l' \(Cube\).*@exports\('Cube'\)"),
            ('type: "HingeLoss" bottom: "x1"', r"layer 'l' \(HingeLoss\).*is for training and testing"),
            (
                'type: "Python" python_param { module: "own_layers" layer: "Cube" }',
                r"layer 'l' \(Python\).*@exports\('own_layers.Cube'\)",
            ),
        ],
    )
    def test_layers_without_export(self, layer, message, tmp_path, monkeypatch):
        monkeypatch.setitem(registry._layers, "Cube", _Cube)
        monkeypatch.setitem(registry._python_layers, ("own_layers", "Cube"), _Cube)
        net = make_net(f'layer {{ name: "l" bottom: "x0" top: "y" {layer} }}', "2,3,4,5", "2", "3,5")
        with pytest.raises(LayerError, match=message):
            export_onnx(net, tmp_path / "a.onnx")
        assert not list(tmp_path.iterdir())

    def test_layers_that_read_data(self, tmp_path):
        body = 'layer { name: "l" type: "DummyData" top: "y" dummy_data_param { shape { dim: 2 } } }'
        with pytest.raises(LayerError, match=r"layer 'l' \(DummyData\).*export the deploy net"):
            export_onnx(make_net(body), tmp_path / "a.onnx")

    def test_opset_phase_and_folder(self, tmp_path):
        body = 'layer { name: "l" type: "ReLU" bottom: "x0" top: "y" }'
        net = make_net(body, "2,3")
        for opset in (16, 1000, -1):
            with pytest.raises(CaffeError, match="opset must be 17 to"):
                export_onnx(net, tmp_path / "a.onnx", opset=opset)
        with pytest.raises(CaffeError, match="cannot be written"):
            export_onnx(net, tmp_path / "none" / "a.onnx")
        with pytest.raises(CaffeError, match="phase='TEST'"):
            export_onnx(caffe_bridge.Net(DEPLOY, phase="TRAIN"), tmp_path / "a.onnx")

    @pytest.mark.parametrize("type_", ["Cube", "own_layers.Cube"])
    def test_own_types(self, type_, tmp_path, monkeypatch):
        monkeypatch.setitem(registry._layers, "Cube", _Cube)
        monkeypatch.setitem(registry._python_layers, ("own_layers", "Cube"), _Cube)
        monkeypatch.setattr(onnx_registry, "_exporters", dict(exported_types()))

        @exports(type_)
        def cube(graph, node, bottoms):
            return [graph.add("Pow", bottoms[0], graph.constant(3))]

        named = 'type: "Python" python_param { module: "own_layers" layer: "Cube" }' if "." in type_ else 'type: "Cube"'
        net = make_net(f'layer {{ name: "l" bottom: "x0" top: "y" {named} }}', "2,3,4,5")
        exported(net, tmp_path / "a.onnx")
        assert_same(net, tmp_path / "a.onnx")


class TestCommand:
    def test_converts_and_verifies(self, tmp_path, capsys):
        assert main([str(DEPLOY), str(PLAIN), str(tmp_path / "a.onnx")]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"{tmp_path / 'a.onnx'}: 13 blobs of 6 layers, ") and "prob: error " in out
        net = caffe_bridge.Net(DEPLOY, PLAIN)
        assert_same(net, tmp_path / "a.onnx")

    def test_options(self, tmp_path, capsys):
        options = ["--opset", "19", "--static", "--input-shape", "data=4,3,20,24", "--no-verify"]
        assert main([str(DEPLOY), str(PLAIN), str(tmp_path / "a.onnx"), *options]) == 0
        model = onnx.load(tmp_path / "a.onnx")
        assert model.opset_import[0].version == 19 and dims(model, "data") == [4, 3, 20, 24]
        assert "error" not in capsys.readouterr().out

    def test_target(self, tmp_path, capsys):
        text = """input: "x" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 } input: "r" input_shape { dim: 2 dim: 5 }
            layer { name: "c" type: "Convolution" bottom: "x" top: "y"
            convolution_param { num_output: 2 kernel_size: 1 } }
            layer { name: "l" type: "ROIPooling" bottom: "y" bottom: "r" top: "z"
            roi_pooling_param { pooled_h: 2 pooled_w: 2 } }"""
        (tmp_path / "a.prototxt").write_text(text)
        caffe_bridge.Net(text).save(tmp_path / "a.caffemodel")
        files = [str(tmp_path / name) for name in ("a.prototxt", "a.caffemodel", "a.onnx")]
        for options, pooled in (([], True), (["--target", "opencv5"], False)):
            assert main([*files, *options]) == 0 and "z: error " in capsys.readouterr().out
            assert ("MaxRoiPool" in {node.op_type for node in onnx.load(files[2]).graph.node}) == pooled
        assert run(main, [*files, "--target", "opencv9"]) == 2
        assert "target must be onnxruntime or opencv5" in capsys.readouterr().err

    def test_status_when_values_differ(self, tmp_path, capsys, monkeypatch):
        from caffe_bridge.convert import verification

        monkeypatch.setattr(verification, "errors", lambda net, path, inputs: {"prob": 2e-4})
        assert main([str(DEPLOY), str(PLAIN), str(tmp_path / "a.onnx")]) == 1
        out = capsys.readouterr().out
        assert "prob: error 0.0002 on" in out and "above 0.0001" in out

    @pytest.mark.parametrize(
        "arguments",
        [["a.h5", "--opset", "17"], ["a.onnx", "--input-shape", "data"], ["a.onnx", "--input-shape", "d=0"]],
    )
    def test_wrong_options(self, arguments, tmp_path):
        with pytest.raises(SystemExit) as stop:
            main([str(PLAIN), str(tmp_path / arguments[0]), *arguments[1:]])
        assert stop.value.code == 2

    def test_wrong_sources(self, tmp_path, capsys):
        destination = str(tmp_path / "a.onnx")
        assert run(main, [str(DEPLOY), str(PLAIN), destination, "--input-shape", "image=1,3,20,24"]) == 2
        assert "the net's inputs are data" in capsys.readouterr().err
        convert([str(PLAIN)], str(tmp_path / "a.pt"))
        with pytest.raises(CaffeError, match="no definition"):
            convert([str(tmp_path / "a.pt")], destination)
        deploy = DEPLOY.read_text()
        (tmp_path / "b.prototxt").write_text(deploy.replace("num_output: 5", "num_output: 6"))
        with pytest.raises(WeightsError, match=r"blob 0 of layer 'conv1' is \(5, .*the net's is \(6, "):
            convert([str(tmp_path / "b.prototxt"), str(PLAIN)], destination)
        (tmp_path / "b.prototxt").write_text(deploy.replace('"conv1" type', '"conv9" type'))
        with pytest.raises(WeightsError, match="no blob 0 for layer 'conv9'"):
            convert([str(tmp_path / "b.prototxt"), str(PLAIN)], destination)


class TestDifference:
    def test_shapes_and_special_values(self):
        nan, inf = np.nan, np.inf
        assert difference(np.zeros((2, 1)), np.zeros(2)) == inf
        assert difference(np.array([1.0, nan, inf]), np.array([1.0, nan, inf])) == 0
        assert difference(np.array([9.0]), np.array([10.0])) == pytest.approx(0.1)
        assert difference(np.array([0.1]), np.array([0.0])) == pytest.approx(0.1)
        for a, b in itertools.permutations((nan, inf, 0.0), 2):
            assert difference(np.array([a]), np.array([b])) == inf


class TestTable:
    def test_the_committed_table_is_in_step(self, capsys):
        assert onnx_table.main(["--check"]) == 0, capsys.readouterr().err

    def test_check_finds_what_is_edited(self, tmp_path, capsys):
        path = tmp_path / "conversion.md"
        path.write_text(onnx_table.BEGIN + onnx_table.END)
        assert onnx_table.main(["--check", "--out", str(path)]) == 1 and "out of step" in capsys.readouterr().err
        assert onnx_table.main(["--out", str(path)]) == 0 == onnx_table.main(["--check", "--out", str(path)])
        path.write_text("")
        with pytest.raises(CaffeError, match="no lines"):
            onnx_table.main(["--out", str(path)])
