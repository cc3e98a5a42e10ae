"""ONNX models as Caffe nets: they compute what onnxruntime computes, and bad ones are refused."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from caffe_bridge import CaffeError, text_format
from caffe_bridge.convert.caffe_import import ConversionError, import_onnx
from caffe_bridge.convert.model import Model
from caffe_bridge.convert.onnx_export.verification import difference
from caffe_bridge.convert.onnx_files import build_net
from caffe_bridge.tools import import_table

TOLERANCE = 1e-4


def make(nodes, inputs: dict, outputs, arrays: dict | None = None, opset: int = 17, **options) -> onnx.ModelProto:
    """A model; the outputs' shapes are left open."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (arrays or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **options)


def node(operator: str, inputs: str, outputs: str = "y", **attributes) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(","), outputs.split(","), **attributes)


def check(model: onnx.ModelProto, dialect: str = "bvlc", **options) -> Model:
    """Convert, and compare with onnxruntime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    net_model = import_onnx(model, dialect=dialect, **options)
    net = build_net(net_model)
    generator = np.random.default_rng(0)
    arrays = {name: generator.standard_normal(net.graph.shapes[name], np.float32) for name in net.inputs}
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, arrays)
    with torch.no_grad():
        found = net(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    names = [output.name for output in model.graph.output]
    assert set(found) == set(names)
    for name, want in zip(names, wanted, strict=True):
        assert difference(found[name].numpy(), want.astype(np.float32)) <= TOLERANCE, name
    return net_model


def types(model: Model) -> list[str]:
    return [layer.type for layer in model.definition.layer]


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


SINGLE = {
    "Conv": ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (1, 3, 8, 9), {"w": values(4, 3, 3, 3), "b": values(4)}),
    "Conv lower": ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (1, 3, 8, 9), {"w": values(4, 3, 4, 3)}),
    "Conv dilated": ({"pads": [2, 0, 1, 3], "dilations": [2, 2]}, (1, 3, 8, 9), {"w": values(4, 3, 3, 3)}),
    "ConvTranspose": ({"strides": [2, 2], "output_shape": [9, 12]}, (1, 3, 4, 5), {"w": values(3, 2, 3, 3)}),
    "ConvTranspose same": ({"strides": [2, 3], "auto_pad": "SAME_UPPER"}, (1, 3, 4, 5), {"w": values(3, 2, 3, 4)}),
    "Gemm": ({"transB": 1, "alpha": 0.5, "beta": 2.0}, (2, 5), {"w": values(3, 5), "b": values(3)}),
    "MatMul": ({}, (2, 4, 5), {"w": values(5, 3)}),
    "MaxPool": ({"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, (1, 2, 8, 9), {}),
    "MaxPool lower": ({"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"}, (1, 2, 8, 9), {}),
    "MaxPool uneven": ({"kernel_shape": [3, 3], "strides": [2, 1], "pads": [0, 1, 2, 0]}, (1, 2, 8, 9), {}),
    "MaxPool dilated": ({"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [1, 0, 2, 1]}, (1, 2, 8, 9), {}),
    "AveragePool": ({"kernel_shape": [3, 3], "pads": [1, 0, 1, 2]}, (1, 2, 7, 7), {}),
    "AveragePool counted": ({"kernel_shape": [3, 3], "pads": [1, 0, 0, 2], "count_include_pad": 1}, (1, 2, 7, 7), {}),
    "GlobalAveragePool": ({}, (2, 3, 4, 5), {}),
    "GlobalMaxPool": ({}, (2, 3, 4, 5), {}),
    "BatchNormalization": (
        {}, (2, 3, 4, 5), {"s": values(3), "b": values(3), "m": values(3), "v": np.abs(values(3)) + 1}
    ),
    "InstanceNormalization": ({}, (2, 3, 4, 5), {"s": values(3), "b": values(3)}),
    "LRN": ({"size": 3, "alpha": 0.2, "beta": 0.6, "bias": 2.0}, (1, 5, 3, 3), {}),
    "LpNormalization": ({"axis": 1}, (2, 5, 3, 3), {}),
    "LayerNormalization": ({}, (2, 3, 6), {"s": values(6), "b": values(6)}),
    "Softmax": ({}, (2, 3, 4), {}),
    "LogSoftmax": ({"axis": 1}, (2, 3, 4), {}),
    "PRelu": ({}, (2, 3, 4, 5), {"s": np.abs(values(3, 1, 1))}),
    "PRelu shared": ({}, (2, 3, 4), {"s": np.abs(values(1))}),
    "Selu": ({}, (2, 3), {}),
    "HardSigmoid": ({}, (2, 3), {}),
    "HardSwish": ({}, (2, 3), {}),
    "Softsign": ({}, (2, 3), {}),
    "LeakyRelu": ({"alpha": 0.3}, (2, 3), {}),
    "Clip": ({}, (2, 3), {"l": np.float32(-0.5), "h": np.float32(0.7)}),
    "Reciprocal": ({}, (2, 3), {}),
    "Neg": ({}, (2, 3), {}),
    "Pow": ({}, (2, 3), {"p": np.float32(2)}),
    "Sub": ({}, (2, 3), {"p": values(3)}),
    "Mean": ({}, (2, 3), {"p": values(2, 3)}),
    "Flatten": ({"axis": 2}, (2, 3, 4, 5), {}),
    "Reshape": ({}, (2, 3, 4), {"s": np.array([0, -1, 2])}),
    "Squeeze": ({}, (2, 1, 3, 1), {"a": np.array([1])}),
    "Unsqueeze": ({}, (2, 3), {"a": np.array([0, 3])}),
    "Expand": ({}, (2, 1, 4), {"s": np.array([2, 3, 4])}),
    "Tile": ({}, (2, 3), {"r": np.array([2, 3])}),
    "Slice": (
        {}, (2, 6, 7), {"s": np.array([5, 1]), "e": np.array([-9, 6]), "a": np.array([1, 2]), "t": np.array([-2, 2])}
    ),
    "Gather": ({"axis": 1}, (2, 6, 3), {"i": np.array([[4, 1], [0, -1]])}),
    "Pad": ({}, (1, 2, 3, 4), {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1]), "v": np.float32(0.5)}),
    "Pad edge": ({"mode": "edge"}, (1, 2, 3, 4), {"p": np.array([0, 0, 1, 2, 0, 1, 0, 1])}),
    "DepthToSpace": ({"blocksize": 2}, (1, 8, 3, 2), {}),
    "DepthToSpace columns": ({"blocksize": 2, "mode": "CRD"}, (1, 8, 3, 2), {}),
    "SpaceToDepth": ({"blocksize": 2}, (1, 3, 4, 6), {}),
    "Erf": ({}, (2, 3, 4), {}),
    "Gelu": ({}, (2, 3, 4), {}),
    "Celu": ({"alpha": 0.7}, (2, 3), {}),
    "Sign": ({}, (2, 3), {}),
    "Shrink": ({"lambd": 0.4, "bias": 0.1}, (2, 3), {}),
    "ThresholdedRelu": ({"alpha": 0.2}, (2, 3), {}),
    "Max": ({}, (2, 3, 4), {"c": values(3, 1)}),
    "Min": ({}, (2, 3, 4), {"c": values(4)}),
    "CumSum": ({"reverse": 1, "exclusive": 1}, (2, 3, 4), {"a": np.array(1)}),
    "ReduceProd": ({"axes": [0, 2], "keepdims": 0}, (2, 3, 4), {}),
    "ReduceL2": ({"axes": [1], "keepdims": 0}, (2, 3, 4), {}),
    "ReduceLogSumExp": ({"axes": [2]}, (2, 3, 4), {}),
    "ReduceMax": ({"axes": [-1], "keepdims": 0}, (2, 3, 4), {}),
    "ReduceSum": ({"keepdims": 0}, (2, 3, 4), {"a": np.array([1, 2])}),
}  # fmt: skip


class TestOperators:
    @pytest.mark.parametrize("name", SINGLE)
    def test_alone(self, name):
        attributes, shape, arrays = SINGLE[name]
        operator = name.split()[0]
        nodes = [node(operator, ",".join(["x", *arrays]), **attributes)]
        check(make(nodes, {"x": shape}, ["y"], arrays, opset=20 if operator == "Gelu" else 17))

    @pytest.mark.parametrize("operator", ["Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal"])
    def test_comparisons(self, operator):
        nodes = [
            node("Relu", "x", "r"), node(operator, "r,c", "a"), node(operator, "z,r", "b"), node("Not", "a", "n"),
            node("And", "n,b", "both"), node("Or", "a,b", "either"), node("Where", "both,x,c", "y"),
            node("Where", "either,c,z", "w"), node("Cast", "b", "f", to=TensorProto.FLOAT),
        ]  # fmt: skip
        arrays = {"c": values(3, 1), "z": np.zeros(1, np.float32)}
        check(make(nodes, {"x": (2, 3, 4)}, ["y", "w", "f"], arrays))

    def test_branches_on_sizes(self):
        """torch's older exporter writes squeeze(1) as a question about the size."""
        out = [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
        then = helper.make_graph([node("Squeeze", "x,one", "s"), node("Relu", "s", "t")], "then", [], out)
        other = helper.make_graph([node("Identity", "x", "t")], "else", [], out)
        nodes = [
            node("Shape", "x", "shape"), node("Gather", "shape,one", "size"), node("Equal", "size,one", "c"),
            node("If", "c", then_branch=then, else_branch=other),
        ]  # fmt: skip
        arrays = {"one": np.array([1])}
        assert types(check(make(nodes, {"x": (2, 1, 4)}, ["y"], arrays))) == ["Input", "Flatten", "ReLU"]
        assert types(import_onnx(make(nodes, {"x": (2, 3, 4)}, ["y"], arrays))) == ["Input", "Split"]
        with pytest.raises(ConversionError, match="'y' .If.*condition that is computed at run time"):
            import_onnx(make([node("Cast", "x", "c", to=TensorProto.BOOL), nodes[3]], {"x": (1,)}, ["y"], arrays))

    def test_gelu_in_every_order(self):
        arrays = {"r": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
        gate = [node("Div", "x,r", "d"), node("Erf", "d", "e"), node("Add", "e,one", "g")]
        for last in (
            [node("Mul", "x,g", "m"), node("Mul", "m,half")],
            [node("Mul", "x,half", "h"), node("Mul", "h,g")],
            [node("Mul", "g,half", "h"), node("Mul", "h,x")],
        ):
            model = check(make([*gate, *last], {"x": (2, 3)}, ["y"], arrays), dialect="opencv")
            assert types(model).count("ReLU") == 1

    @pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"])
    def test_resize(self, coordinates):
        nodes, arrays = [], {}
        for i, scale in enumerate((2.0, 3.0, 1.5, 0.6)):
            arrays[f"s{i}"] = np.array([1, 1, scale, scale], np.float32)
            for mode in ("nearest", "linear", "cubic"):
                how = {"mode": mode, "coordinate_transformation_mode": coordinates}
                nodes.append(node("Resize", f"x,,s{i}", f"y{i}{mode}", **how))
        arrays["sizes"] = np.array([1, 2, 5, 9])
        nodes.append(node("Resize", "x,,,sizes", "sized", mode="linear", coordinate_transformation_mode=coordinates))
        check(make(nodes, {"x": (1, 2, 6, 5)}, [n.output[0] for n in nodes], arrays))

    def test_products_of_what_lies_on_its_side(self):
        model = make([node("Gemm", "x,w,b", transA=1)], {"x": (5, 2)}, ["y"], {"w": values(5, 3), "b": values(1, 3)})
        assert types(check(model, "ssd")) == ["Input", "Permute", "InnerProduct"]
        turned = make([node("MatMul", "w,x")], {"x": (2, 5, 3)}, ["y"], {"w": values(4, 5)})
        assert types(check(turned)) == ["Input", "Reshape", "Convolution", "Flatten"]

    def test_shapes_computed_in_the_graph(self):
        nodes = [
            node("Shape", "x", "shape"), node("Gather", "shape,zero", "batch", axis=0),
            node("Unsqueeze", "batch,first", "batch1"), node("Concat", "batch1,rest", "target", axis=0),
            node("Reshape", "x,target", "flat"), node("Gemm", "flat,w", "z", transB=1),
            node("ConstantOfShape", "shape", "zeros"), node("Add", "x,zeros", "same"), node("Relu", "same", "r"),
        ]  # fmt: skip
        arrays = {"zero": np.array(0), "first": np.array([0]), "rest": np.array([-1]), "w": values(3, 24)}
        model = check(make(nodes, {"x": ("batch", 2, 3, 4)}, ["z", "r"], arrays))
        assert sorted(types(model)) == ["InnerProduct", "Input", "ReLU"]

    def test_older_opsets(self):
        nodes = [
            node("Clip", "x", "a", min=0.0, max=6.0), node("Pad", "a", "b", pads=[0, 0, 1, 1, 0, 0, 1, 1]),
            node("Conv", "b,w", "c"), node("Upsample", "c,s", "d", mode="nearest"),
            node("Slice", "d", "e", starts=[1], ends=[5], axes=[2]),
            node("Softmax", "e", "f", axis=1), node("Split", "f", "g,h", axis=1), node("Squeeze", "g", "y"),
        ]  # fmt: skip
        arrays = {"w": values(4, 3, 3, 3), "s": np.array([1, 1, 2, 2], np.float32)}
        model = import_onnx(make(nodes, {"x": (1, 3, 5, 6)}, ["h", "y"], arrays, opset=9), dialect="caffe-bridge")
        assert {"ReLU6", "Convolution", "Upsample", "Slice", "Softmax"} <= set(types(model))
        net = build_net(model)
        x = torch.randn(1, 3, 5, 6)
        z = torch.nn.functional.conv2d(x.clamp(0, 6), torch.from_numpy(arrays["w"]), padding=1)
        z = torch.nn.functional.interpolate(z, scale_factor=2)[:, :, 1:5].flatten(1).softmax(1).reshape(1, 4, 4, 12)
        with torch.no_grad():
            found = net(x=x)
        assert difference(found["h"].numpy(), z[:, 2:].numpy()) <= TOLERANCE
        assert difference(found["y"].numpy(), z[0, :2].numpy()) <= TOLERANCE

    def test_names(self):
        nodes = [
            helper.make_node("Conv", ["x", "layer1.0.conv1.weight"], ["a"], name="/layer1/layer1.0/conv1/Conv"),
            helper.make_node("Relu", ["a"], ["b"], name="/layer1/layer1.0/relu/Relu"),
            helper.make_node("Conv", ["b", "w"], ["c"], name="stage/conv/Conv"),
            helper.make_node("Add", ["c", "b"], ["out"], name="/layer1/layer1.0/Add"),
        ]
        arrays = {"layer1.0.conv1.weight": values(3, 3, 1, 1), "w": values(3, 3, 1, 1)}
        model = check(make(nodes, {"x": (1, 3, 4, 4)}, ["out"], arrays), name="mine")
        layers = [(layer.name, list(layer.top)) for layer in model.definition.layer]
        assert layers == [
            ("x", ["x"]), ("layer1.0.conv1", ["layer1.0.conv1"]), ("layer1.0.relu", ["layer1.0.conv1"]),
            ("stage/conv", ["stage/conv"]), ("layer1.0", ["out"]),
        ]  # fmt: skip
        assert model.definition.name == "mine"

    def test_outputs_that_are_read_on_or_given_twice(self):
        nodes = [node("Relu", "x", "a"), node("Exp", "a", "b"), node("Identity", "b", "c"), node("Identity", "x", "d")]
        check(make(nodes, {"x": (2, 3)}, ["a", "b", "c", "d"]))

    def test_functions_are_inlined(self):
        function = helper.make_function(
            "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
        )
        model = make([helper.make_node("Twice", ["x"], ["y"], domain="own")], {"x": (2, 3)}, ["y"])
        model.functions.append(function)
        model.opset_import.append(helper.make_opsetid("own", 1))
        assert types(import_onnx(model)) == ["Input", "Eltwise"]


class TestFiles:
    def model(self, tmp_path, location: str, offset: int = 0, length: int = 36) -> str:
        model = make([node("MatMul", "x,w")], {"x": (2, 3)}, ["y"])
        tensor = model.graph.initializer.add(name="w", dims=[3, 3], data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
        (tmp_path / "sub").mkdir(exist_ok=True)
        onnx.save(model, tmp_path / "sub" / "a.onnx")
        return str(tmp_path / "sub" / "a.onnx")

    def test_external_data(self, tmp_path):
        path = self.model(tmp_path, "a.data", 4)
        weights = values(10)
        weights.tofile(tmp_path / "sub" / "a.data")
        model = import_onnx(path)
        assert np.array_equal(model.layers["y"][0], weights[1:].reshape(3, 3).T)

    @pytest.mark.parametrize(
        "location", ["../secret", "/etc/passwd", "", ".", "a/../../secret", "link", "gone", "a\0b"]
    )
    def test_only_within_the_folder(self, location, tmp_path):
        (tmp_path / "secret").write_bytes(bytes(36))
        path = self.model(tmp_path, location)
        (tmp_path / "sub" / "link").symlink_to(tmp_path / "secret")
        with pytest.raises(ConversionError, match="outside the model's folder|is not there"):
            import_onnx(path)

    @pytest.mark.parametrize(("offset", "length"), [(8, 36), (-4, 36), (0, 40), (1 << 62, 36), (0, -1)])
    def test_sizes_are_checked(self, offset, length, tmp_path):
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "a.data").write_bytes(bytes(36))
        with pytest.raises(ConversionError, match="malformed|does not hold"):
            import_onnx(self.model(tmp_path, "a.data", offset, length))

    def test_no_model(self, tmp_path):
        for content in (b"", b"\x00" * 50, b"layer { }", b"\x08\x07"):
            (tmp_path / "a.onnx").write_bytes(content)
            with pytest.raises(CaffeError, match="no ONNX model|no output|opset"):
                import_onnx(tmp_path / "a.onnx")
        with pytest.raises(CaffeError, match="cannot be read"):
            import_onnx(tmp_path / "none.onnx")


class TestBadGraphs:
    def refused(self, model: onnx.ModelProto, message: str, **options) -> None:
        began = time.process_time()
        with pytest.raises(CaffeError, match=message):
            import_onnx(model, **options)
        assert time.process_time() - began < 5

    def test_no_graph(self):
        self.refused(make([node("Relu", "y", "z"), node("Relu", "z", "y")], {}, ["y"]), "has a cycle")
        self.refused(make([node("Relu", "gone")], {"x": (1,)}, ["y"]), "reads 'gone', which nothing makes")
        self.refused(make([node("Relu", "x"), node("Exp", "x")], {"x": (1,)}, ["y"]), "made twice")
        self.refused(make([node("Relu", "x")], {"x": (1,)}, ["z"]), "nothing makes the output 'z'")
        self.refused(make([node("Relu", "x")], {"x": (1,)}, []), "no output")
        self.refused(make([node("Relu", "x")], {"x": (1,)}, ["y"], opset=6), "opset 6 is not one of 7 to")

    def test_sizes(self):
        model = make([node("Relu", "x")], {"x": ("n", 3, "h", "w")}, ["y"])
        self.refused(model, r"input 'x' has shape \(n, 3, h, w\).*--input-shape x=1,3,224,224")
        assert types(import_onnx(model, input_shapes={"x": (1, 3, 4, 4)})) == ["Input", "ReLU"]
        self.refused(model, "no input is named 'y'", input_shapes={"y": (1,)})
        for shape in ((1, -3), (0, 3), (1 << 20, 1 << 20)):
            self.refused(model, "makes a value of shape", input_shapes={"x": shape})
        self.refused(
            make([node("Reshape", "x,s")], {"x": (2, 3)}, ["y"], {"s": np.array([-1, 4])}), "cannot be reshaped"
        )

    def test_everything_is_listed(self):
        nodes = [
            node("NonZero", "x", "a"), node("Sin", "x", "b"), node("LSTM", "b,w,w", "c", hidden_size=2),
            node("Relu", "x", "d"),
            helper.make_node("Fancy", ["d"], ["e"], domain="com.microsoft"), node("MatMul", "d,d", "f"),
            node("Hardmax", "x", "g"),
        ]  # fmt: skip
        model = make(nodes, {"x": (1, 2, 4, 4)}, ["a", "b", "c", "d", "e", "f", "g"], {"w": values(1, 2, 2)})
        with pytest.raises(ConversionError) as caught:
            import_onnx(model)
        assert len(caught.value.problems) == 6
        text = str(caught.value)
        assert "6 things stand in the way" in text
        assert "node 'e' (Fancy), inputs [(1, 2, 4, 4)]: is an operator of 'com.microsoft'" in text
        assert "node 'g' (Hardmax), inputs [(1, 2, 4, 4)]: operator Hardmax has no counterpart in Caffe" in text

    def test_constants_stay_small(self):
        arrays = {
            "s": np.array([1 << 15, 1 << 15]), "one": np.float32(1), "one2": values(1, 1), "zero": np.float32(0),
            "many": np.float32(1e12), "unit": np.float32(1), "far": np.array([0, 0, 0, 1 << 40]),
        }  # fmt: skip
        for nodes in (
            [node("ConstantOfShape", "s", "c"), node("Add", "x,c")],
            [node("Expand", "one,s", "c"), node("Mul", "c,c", "d"), node("Add", "x,d")],
            [node("Tile", "one2,s", "c"), node("Add", "x,c")],
            [node("Range", "zero,many,unit", "c"), node("Add", "x,c")],
        ):
            self.refused(make(nodes, {"x": (1, 1)}, ["y"], arrays), "far larger than the model")
        self.refused(
            make([node("Pad", "x,far", mode="reflect")], {"x": (1, 1)}, ["y"], arrays), "need a matrix of 1099"
        )
        spread = make([node("Expand", "x,s", "c"), node("Relu", "c")], {"x": (1, 1)}, ["y"], arrays)
        assert types(import_onnx(spread)) == ["Input", "Tile", "Tile", "ReLU"]

    def test_functions_that_multiply(self):
        model = make([helper.make_node("f0", ["x"], ["y"], domain="own")], {"x": (2, 3)}, ["y"])
        for i in range(40):
            inner = [helper.make_node(f"f{i + 1}", ["a"], [f"b{j}"], domain="own") for j in range(4)]
            model.functions.append(
                helper.make_function("own", f"f{i}", ["a"], ["b0"], inner, [helper.make_opsetid("own", 1)])
            )
        self.refused(model, "make up more than")
        model.functions[3].node[0].op_type = "f2"
        self.refused(model, "calls itself|make up more")

    def test_malformed_tensors_and_attributes(self):
        model = make([node("MatMul", "x,w")], {"x": (2, 3)}, ["y"], {"w": values(3, 3)})
        for change in ({"dims": [3, 4]}, {"dims": [-3, -3]}, {"dims": [1 << 40, 1 << 40]}, {"data_type": 99}):
            bad = onnx.ModelProto.FromString(model.SerializeToString())
            tensor = bad.graph.initializer[0]
            if "dims" in change:
                del tensor.dims[:]
                tensor.dims.extend(change["dims"])
            else:
                tensor.data_type = 99
            self.refused(bad, "initializer 'w'.*malformed")
        for attributes in (
            {"strides": [0, 1]},
            {"pads": [-1, 0, 0, 0]},
            {"group": 0},
            {"strides": [1] * 5},
            {"dilations": [-1, 1]},
        ):
            self.refused(
                make([node("Conv", "x,w", **attributes)], {"x": (1, 2, 5, 5)}, ["y"], {"w": values(3, 2, 2, 2)}),
                "node 'y'",
            )

    def test_mutations(self):
        nodes = [
            node("Conv", "x,w,b", "c", pads=[1, 1, 1, 1]), node("BatchNormalization", "c,b,b,b,v", "n"),
            node("Relu", "n", "r"),
            node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]), node("Shape", "p", "s"),
            node("Reshape", "p,t", "f"), node("Gemm", "f,g", "y"),
        ]  # fmt: skip
        arrays = {
            "w": values(3, 2, 3, 3),
            "b": values(3),
            "v": np.ones(3, np.float32),
            "t": np.array([1, -1]),
            "g": values(12, 2),
        }
        data = make(nodes, {"x": (1, 2, 4, 4)}, ["y"], arrays).SerializeToString()
        import_onnx(data)
        generator = np.random.default_rng(0)
        refused = 0
        for i in range(400):
            bad = bytearray(data)
            for _ in range(generator.integers(1, 4)):
                bad[generator.integers(len(bad))] = generator.integers(256)
            if i % 4 == 0:
                bad = bad[: generator.integers(len(bad))]
            try:
                import_onnx(bytes(bad), dialect="caffe-bridge")
            except CaffeError:
                refused += 1
        assert 100 < refused < 400


class TestTable:
    def test_the_committed_table_is_in_step(self, capsys):
        assert import_table.main(["--check"]) == 0, capsys.readouterr().err


def test_the_definition_is_text_that_reads_back():
    model = import_onnx(
        make([node("Conv", "x,w", "y", strides=[2, 1])], {"x": (1, 2, 5, 5)}, ["y"], {"w": values(3, 2, 1, 1)})
    )
    text = text_format.format(model.definition)
    assert "stride_h: 2" in text and "stride_w: 1" in text and "kernel_size: 1" in text
