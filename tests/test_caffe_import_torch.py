"""Exported torch programs as Caffe nets: they compute what the modules compute, in every dialect that can."""

from __future__ import annotations

import math
import random
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_models
from torch import nn

from caffe_bridge import CaffeError, text_format
from caffe_bridge.convert import caffe_files
from caffe_bridge.convert.caffe_import import DIALECTS, ConversionError, import_program
from caffe_bridge.convert.model import Model
from caffe_bridge.convert.onnx_export.verification import difference
from caffe_bridge.convert.onnx_files import build_net

TOLERANCE = 1e-4

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

# What no layer of a dialect can express, which the models need.
REFUSED = {
    ("ssd", "bvlc"): "changes the order of axes",
    ("ssd", "caffe-1.0"): "changes the order of axes",
    ("deeplab_v3", "opencv"): "ArgMax",
}


class Wrapped(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


class Together(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return tuple(layer(x) for layer in self.layers)


def export(module, *inputs: torch.Tensor):
    return torch.export.export(module if isinstance(module, nn.Module) else Wrapped(module), inputs, strict=False)


@cache
def program(name: str):
    model, x = torch_models.make(name)
    with torch.no_grad():
        made = model(x)
    return export(model, x), x, list(made) if isinstance(made, tuple) else [made]


def run(model: Model, names, *inputs: torch.Tensor) -> list[np.ndarray]:
    net = build_net(model)
    with torch.no_grad():
        found = net(**dict(zip(net.inputs, inputs)))
    assert set(found) == set(names)
    return [found[name].numpy() for name in names]


def check(module, *inputs: torch.Tensor, dialect: str = "bvlc", tolerance: float = TOLERANCE) -> Model:
    """Convert and compare; returns the net."""
    made = module(*inputs)
    exported = export(module, *inputs)
    model = import_program(exported, dialect=dialect)
    names = exported.graph_signature.user_outputs
    wanted = list(made) if isinstance(made, (tuple, list)) else [made]
    for got, want in zip(run(model, names, *inputs), wanted, strict=True):
        error = difference(got, want.detach().numpy().astype(np.float32))
        assert error <= tolerance, error
    return model


def check_all(functions, *inputs: torch.Tensor, dialects=("bvlc",)) -> None:
    """Convert one program of all the functions, and compare."""
    leaves = torch.utils._pytree.tree_leaves
    exported = export(lambda *given: tuple(leaves([function(*given) for function in functions])), *inputs)
    names = list(exported.graph_signature.user_outputs)
    for dialect in dialects:
        net = build_net(import_program(exported, dialect=dialect))
        with torch.no_grad():
            found = net(**dict(zip(net.inputs, inputs)))
        left = list(names)
        for i, function in enumerate(functions):
            for want in leaves(function(*inputs)):
                error = difference(found[left.pop(0)].numpy(), want.detach().numpy().astype(np.float32))
                assert error <= TOLERANCE, (dialect, i, error)


def types(model: Model) -> list[str]:
    return [layer.type for layer in model.definition.layer]


class TestModels:
    @pytest.mark.parametrize("dialect", DIALECTS)
    @pytest.mark.parametrize("name", torch_models.MODELS)
    def test_computes_the_same(self, name, dialect):
        exported, x, wanted = program(name)
        if (name, dialect) in REFUSED:
            with pytest.raises(ConversionError, match=REFUSED[name, dialect]):
                import_program(exported, dialect=dialect)
            return
        model = import_program(exported, dialect=dialect)
        layers = DIALECTS[dialect].layers
        assert layers is None or set(types(model)) <= layers
        for got, want in zip(run(model, exported.graph_signature.user_outputs, x), wanted, strict=True):
            assert difference(got, want.numpy().astype(np.float32)) <= TOLERANCE

    @pytest.mark.parametrize("name", [name for name in torch_models.MODELS if (name, "opencv") not in REFUSED])
    def test_opencv_reads_them(self, name, tmp_path):
        cv2 = pytest.importorskip("cv2")
        if not hasattr(cv2.dnn, "readNetFromCaffe"):
            pytest.skip("this OpenCV reads no Caffe files")
        exported, x, wanted = program(name)
        model = import_program(exported, dialect="opencv")
        prototxt, weights = str(tmp_path / "a.prototxt"), str(tmp_path / "a.caffemodel")
        (tmp_path / "a.prototxt").write_text(text_format.format(model.definition))
        caffe_files.write_caffemodel(weights, model)
        net = cv2.dnn.readNetFromCaffe(prototxt, weights)
        net.setInput(x.numpy())
        makers = {top: layer.name for layer in model.definition.layer for top in layer.top}
        for blob, want in zip(exported.graph_signature.user_outputs, wanted, strict=True):
            got = net.forward(blob if blob in net.getLayerNames() else makers[blob])
            assert difference(got, want.numpy()) <= TOLERANCE

    def test_reads_as_a_person_would_write_it(self):
        model = import_program(program("resnet")[0], name="ResNet")
        layers = {layer.name: layer for layer in model.definition.layer}
        assert model.definition.name == "ResNet"
        assert list(layers)[:8] == [
            "x", "conv1", "bn1", "bn1/scale", "relu", "maxpool", "layer1.0.conv1", "layer1.0.bn1",
        ]  # fmt: skip
        for name in ("bn1", "bn1/scale", "relu"):
            assert list(layers[name].bottom) == list(layers[name].top) == ["conv1"]
        text = text_format.format(layers["conv1"])
        assert (
            text.split()
            == (
                'name: "conv1" type: "Convolution" bottom: "x" top: "conv1" convolution_param { num_output: 8 '
                "bias_term: false pad: 3 kernel_size: 7 stride: 2 }"
            ).split()
        )
        assert "Reshape" not in types(model) and "Flatten" not in types(model)
        assert [array.shape for array in model.layers["bn1"]] == [(8,), (8,), (1,)]

    def test_classics_need_no_tricks(self):
        vgg = import_program(program("vgg")[0])
        assert set(types(vgg)) == {"Input", "Convolution", "ReLU", "Pooling", "InnerProduct", "Softmax"}
        alexnet = import_program(program("alexnet")[0])
        assert types(alexnet).count("LRN") == 1 and "Power" not in types(alexnet)
        shuffle = import_program(program("shufflenet_v2")[0], dialect="caffe-bridge")
        assert types(shuffle).count("ShuffleChannel") == 1 and "Permute" not in types(shuffle)
        fcn = import_program(program("fcn8s")[0])
        assert types(fcn).count("Crop") >= 3
        ssd = import_program(program("ssd")[0], dialect="ssd")
        assert types(ssd).count("Normalize") == 1 and types(ssd).count("Permute") == 4
        v3 = import_program(program("mobilenet_v3")[0], dialect="caffe-bridge")
        assert types(v3).count("HardSwish") == 4

    def test_batch_size_may_change(self):
        for name in ("resnet", "googlenet", "mobilenet_v3", "deeplab_v3", "super_resolution"):
            module, x = torch_models.make(name)
            model = import_program(program(name)[0])
            more = torch.cat([x, x * 0.5, x - 1])
            net = build_net(model)
            with torch.no_grad():
                got, want = next(iter(net(x=more).values())), module(more)
            assert difference(got.numpy(), want.numpy().astype(np.float32)) <= TOLERANCE

    def test_each_image_is_normalised_by_itself(self):
        modules = [
            nn.LayerNorm([4, 6, 5]),
            nn.LayerNorm(5),
            nn.GroupNorm(2, 4),
            nn.InstanceNorm2d(4),
            nn.GroupNorm(1, 4),
        ]
        x = torch.randn(3, 4, 6, 5)
        exported = export(Together(modules), x[:1])
        for dialect in ("bvlc", "opencv"):
            found = run(import_program(exported, dialect=dialect), exported.graph_signature.user_outputs, x)
            for got, module in zip(found, modules, strict=True):
                assert difference(got, module(x).detach().numpy()) <= TOLERANCE, (dialect, module)

    def test_results_keep_their_names(self):
        exported = export(lambda x: (F.hardshrink(F.relu_(x * 2)), F.dropout(x, 0.5, False)), torch.randn(1, 3))
        net = build_net(import_program(exported))
        assert set(net.outputs) == {"hardshrink", "dropout"}

    def test_files_give_the_same(self, tmp_path):
        exported, x, (want,) = program("mobilenet_v2")
        torch.export.save(exported, tmp_path / "a.pt2")
        model = import_program(torch.export.load(tmp_path / "a.pt2"))
        assert difference(run(model, ["linear"], x)[0], want.numpy()) <= TOLERANCE


class TestPooling:
    @pytest.mark.parametrize("seed", range(3))
    def test_any_geometry(self, seed):
        draw = random.Random(seed)
        functions = []
        for _ in range(15):
            kernel = [draw.randint(1, 5) for _ in range(2)]
            stride = [draw.randint(1, 6) for _ in range(2)]
            pad = [draw.randint(0, k // 2) for k in kernel]
            ceil, counted, divisor = draw.random() < 0.5, draw.random() < 0.5, draw.choice([None, None, 7])
            largest = (kernel, stride, pad, 1, ceil)
            average = (kernel, stride, pad, ceil, counted, divisor)
            functions.append(lambda x, given=largest: F.max_pool2d(x, *given))
            functions.append(lambda x, given=average: F.avg_pool2d(x, *given))
        x = torch.randn(2, 3, draw.randint(6, 14), draw.randint(6, 14))
        check_all(functions, x, dialects=("bvlc", "caffe-1.0"))

    def test_rounding_down(self):
        x = torch.randn(1, 2, 8, 8)
        pool = lambda x: F.max_pool2d(x, 3, 2, 1)  # noqa: E731
        model = check(pool, x)
        assert types(model) == ["Input", "Pooling"] and model.definition.layer[1].pooling_param.round_mode == 1
        assert types(check(pool, x, dialect="ssd")) == ["Input", "Pooling", "Slice", "Silence", "Slice", "Silence"]
        assert types(check(pool, torch.randn(1, 2, 9, 9), dialect="ssd")) == ["Input", "Pooling"]

    def test_dilation(self):
        functions = [
            lambda x: F.max_pool2d(x, 3, 2, 1, 2), lambda x: F.max_pool2d(x, (3, 2), (1, 3), (1, 0), (3, 2), True),
            lambda x: F.max_pool2d(x, 2, 1, 0, 3), lambda x: F.max_pool1d(x[:, :, 0], 3, 2, 1, 3),
            lambda x: F.max_pool2d(x, (1, 3), 1, (0, 1), (1, 2), True),
        ]  # fmt: skip
        check_all(functions, torch.randn(2, 3, 9, 10), dialects=("bvlc", "opencv"))

    def test_one_axis_and_adaptive(self):
        functions = (
            lambda x: F.max_pool1d(x, 3, 2), lambda x: F.avg_pool1d(x, 3, 2, 1),
            lambda x: F.adaptive_avg_pool2d(x.unsqueeze(1), (2, 5)),
            lambda x: F.adaptive_max_pool2d(x.unsqueeze(1), (3, 2)),
            lambda x: F.adaptive_max_pool2d(x.unsqueeze(1), (2, 4)), lambda x: F.adaptive_max_pool1d(x, 3),
        )  # fmt: skip
        check_all(functions, torch.randn(2, 3, 10))

    def test_refusals(self):
        for function, message in ((lambda x: F.max_pool3d(x.unsqueeze(2), 1), "Caffe's Pooling has two"),):
            with pytest.raises(ConversionError, match=message):
                import_program(export(function, torch.randn(1, 2, 8, 8)))


class TestFilters:
    def test_transposed_convolution_of_any_geometry(self):
        draw = random.Random(0)
        torch.manual_seed(0)
        layers = []
        for _ in range(30):
            kernel, stride, dilation = draw.randint(1, 4), draw.randint(1, 3), draw.randint(1, 2)
            extra = draw.randint(0, max(stride, dilation) - 1)
            pad, group, bias = draw.randint(0, kernel - 1), draw.choice([1, 2]), draw.random() < 0.5
            layers.append(nn.ConvTranspose2d(4, 6, kernel, stride, pad, extra, group, bias, dilation))
        check(Together(layers), torch.randn(2, 4, 5, 6))

    def test_unequal_padding(self):
        torch.manual_seed(0)
        layers = []
        for pads in ((0, 1, 0, 1), (2, 0, 1, 0), (1, 2, 3, 0), (1, 1, 1, 1), (0, 3, 2, 1)):
            for dilation in (1, 2):
                layers.append(nn.Sequential(nn.ZeroPad2d(pads), nn.Conv2d(3, 4, 3, 2, dilation=dilation)))
        for size in ((9, 10), (10, 9)):
            assert set(types(check(Together(layers), torch.randn(1, 3, *size)))) == {"Input", "Convolution"}

    def test_same_padding_and_other_axes(self):
        check(nn.Conv2d(3, 4, 4, padding="same"), torch.randn(1, 3, 7, 8))
        check(nn.Conv1d(3, 4, 3, 2, 1), torch.randn(2, 3, 9))
        check(nn.Conv3d(2, 3, 2, 1, 1), torch.randn(1, 2, 4, 5, 3))
        check(nn.Linear(5, 3), torch.randn(2, 4, 5))
        check(nn.Embedding(7, 3), torch.tensor([[1, 6, 2], [0, 3, 3]]))

    def test_padding_is_taken_in_only_where_it_is_the_same(self):
        x = torch.randn(1, 2, 6, 6)
        pooled = lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 1)  # noqa: E731
        assert "Convolution" in types(check(pooled, x))
        assert types(check(lambda x: pooled(F.relu(x)), x)) == ["Input", "ReLU", "Pooling"]
        assert "Convolution" not in types(check(lambda x: F.avg_pool2d(F.pad(x, (1, 0, 1, 0)), 2, 2), x))
        low = lambda x: F.max_pool2d(F.pad(x, (1, 0, 1, 0), value=float("-inf")), 2, 1)  # noqa: E731
        assert "Convolution" not in types(check(low, x))
        both = lambda x: (lambda y: (F.avg_pool2d(y, 2, 1), y * 2))(F.pad(x, (1, 1, 1, 1)))  # noqa: E731
        check(both, x)


class TestValues:
    def test_activations(self):
        x = torch.randn(2, 3, 4, 5) * 4
        functions = [
            F.relu, F.relu6, F.elu, lambda x: F.elu(x, 0.3), F.selu, F.silu, F.mish, F.hardswish, F.hardsigmoid,
            F.softplus, lambda x: F.softplus(x, 2), torch.sigmoid, torch.tanh, torch.exp, torch.abs, torch.square,
            lambda x: F.leaky_relu(x, 0.2), F.hardtanh, lambda x: x.clamp(min=-1), lambda x: x.clamp(max=0.5),
            lambda x: x.clamp(-2, 3), lambda x: F.gelu(x, approximate="tanh"), F.softsign, F.logsigmoid,
            lambda x: F.softmax(x, 3), lambda x: F.log_softmax(x, 1), lambda x: x.abs().sqrt(), F.celu,
            lambda x: (x.abs() + 1).rsqrt(), lambda x: 1 / (x.abs() + 1), lambda x: (x.abs() + 1) ** 1.5,
            lambda x: x * torch.sigmoid(1.7 * x), lambda x: x * F.relu6(x + 3) / 6, lambda x: x / 6 * F.relu6(x + 3),
            lambda x: x * torch.tanh(F.softplus(x)), lambda x: (x * x * 0.1 + 3) / 2, lambda x: F.normalize(x, dim=1),
        ]  # fmt: skip
        check_all(functions, x, dialects=("bvlc", "caffe-1.0", "opencv", "caffe-bridge"))

    def test_composed_functions(self):
        x, c = torch.randn(2, 3, 4, 5) * 2, torch.randn(3, 1, 5)
        functions = [
            F.gelu, torch.erf, torch.expm1, torch.exp2, lambda x: x.abs().log1p(), lambda x: (x.abs() + 1).log2(),
            lambda x: (x.abs() + 1).log10(), lambda x: torch.maximum(x, c), lambda x: torch.minimum(c, x), F.softshrink,
            lambda x: F.lp_pool2d(x, 2, 2), lambda x: F.lp_pool2d(x.abs(), 3, 2, 1), lambda x: x.var((1, 2)),
            lambda x: x.std(-1, keepdim=True), lambda x: torch.var_mean(x, 1, correction=0), lambda x: x.prod(1),
            lambda x: x.cumsum(2), lambda x: F.rms_norm(x, (5,)), lambda x: F.rms_norm(x, (4, 5), x[0, 0] * 0 + 2),
            lambda x: torch.linalg.vector_norm(x, math.inf, (1,)), lambda x: torch.linalg.vector_norm(x, 3, (1, 2)),
            lambda x: (x * 50).logsumexp(1), lambda x: x.movedim(0, 0), lambda x: x.tensor_split(3, 2), F.tanhshrink,
            lambda x: F.normalize(x.unsqueeze(4), dim=1),
        ]  # fmt: skip
        check_all(functions, x, dialects=("bvlc", "opencv"))

    def test_comparisons(self):
        x = torch.randn(2, 3, 4, 5).round(decimals=1)
        functions = [
            lambda x: torch.where(x > 0.5, x, 0.3 * x), lambda x: torch.where(x <= x.mean(1, True), 1.0, x),
            lambda x: x.masked_fill(x < 0, -1.0), lambda x: torch.where(x.relu() == 0, 1.0, 2.0), torch.sign,
            lambda x: (x != 0.1).float(), lambda x: x * (x >= 0.3), F.hardshrink, lambda x: F.threshold(x, 0.1, -3.0),
            lambda x: torch.where(torch.arange(5) > 2, x, 0.0), lambda x: (x > x.flip(3)).float(),
        ]  # fmt: skip
        check_all(functions, x)
        with pytest.raises(ConversionError, match="needs the layer Threshold, which opencv lacks"):
            import_program(export(functions[0], x), dialect="opencv")

    def test_channels_last_for_a_while(self):
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm, self.wide, self.narrow = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)
                self.gamma = nn.Parameter(torch.rand(6))

            def forward(self, x):
                y = self.narrow(F.gelu(self.wide(self.norm(x.permute(0, 2, 3, 1)))).softmax(-1))
                return x + (self.gamma * y).permute(0, 3, 1, 2)

        module = Block()
        nn.init.normal_(module.norm.weight)
        for dialect in ("bvlc", "opencv"):
            model = check(module, torch.randn(2, 6, 4, 5), dialect=dialect)
            assert {"Permute", "Reshape", "InnerProduct"}.isdisjoint(types(model))

    def test_idioms_become_one_layer(self):
        x = torch.randn(1, 3, 4, 4)
        for function, wanted in (
            (lambda x: x * torch.sigmoid(x), "Swish"),
            (lambda x: x * F.relu6(x + 3) / 6, "HardSwish"),
            (lambda x: x * (F.relu6(x + 3) / 6), "HardSwish"),
            (lambda x: x * torch.tanh(F.softplus(x)), "Mish"),
            (lambda x: ((x * 2 + 1) * 3 - 1) / 2, "Power"),
            (lambda x: F.interpolate(x, scale_factor=2), "Upsample"),
            (lambda x: F.interpolate(x, size=(7, 9), mode="bilinear", align_corners=True), "Interp"),
        ):
            assert types(check(function, x, dialect="caffe-bridge")) == ["Input", wanted]

    def test_arithmetic_with_constants(self):
        torch.manual_seed(0)
        functions = []
        for shape in ((), (1,), (5,), (3, 1, 1), (4, 5), (4, 1), (1, 3, 1, 5), (2, 1, 1, 1), (2, 3, 4, 5)):
            c = torch.rand(shape) + 0.5
            functions += [
                lambda x, c=c: x + c, lambda x, c=c: x * c, lambda x, c=c: x - c, lambda x, c=c: c - x,
                lambda x, c=c: x / c, lambda x, c=c: c / (x.abs() + 1), lambda x, c=c: x * c + c,
                lambda x, c=c: (x + c) * c,
            ]  # fmt: skip
        check_all(functions, torch.randn(2, 3, 4, 5), dialects=("bvlc", "opencv"))

    def test_arithmetic_of_values(self):
        functions = [
            torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum,
            lambda a, b: torch.add(a, b, alpha=0.3), lambda a, b: torch.rsub(a, b),
        ]  # fmt: skip
        many = list(functions)
        for shape in ((2, 3, 1, 1), (2, 1, 4, 5), (2, 1, 1, 5), (2, 3, 4, 1), (1, 1, 4, 5), (1, 3, 1, 1), (2, 1, 1, 1)):
            part = tuple(slice(0, size) for size in shape)
            many += [lambda a, b, f=f, part=part: f(a, b[part]) for f in functions]
            many += [lambda a, b, f=f, part=part: f(b[part], a.abs() + 0.5) for f in functions[:5]]
        check_all(many, torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5) + 0.5, dialects=("bvlc", "opencv"))

    def test_reductions(self):
        functions = [lambda x: x.max(1)[0], lambda x: x.mean()]
        for dims in ((2, 3), (1,), (3,), (2,), (1, 2, 3), (1, 3), (0,), (0, 2, 3)):
            for keep in (True, False):
                functions += [
                    lambda x, d=dims, k=keep: x.mean(d, k), lambda x, d=dims, k=keep: x.sum(d, k),
                    lambda x, d=dims, k=keep: x.amax(d, k), lambda x, d=dims, k=keep: x.amin(d, k),
                    lambda x, d=dims, k=keep: torch.linalg.vector_norm(x, 2, d, k),
                    lambda x, d=dims, k=keep: torch.linalg.vector_norm(x, 1, d, k),
                ]  # fmt: skip
        x = torch.randn(2, 3, 4, 5)
        check_all(functions, x, dialects=("bvlc", "opencv"))
        check(lambda x: x.argmax(1), x)

    def test_normalisation(self):
        torch.manual_seed(0)
        layers = [
            nn.InstanceNorm2d(6, affine=True), nn.InstanceNorm2d(6), nn.GroupNorm(3, 6), nn.LayerNorm(5),
            nn.LayerNorm((6, 4, 5)), nn.BatchNorm2d(6, affine=False), nn.LocalResponseNorm(3, 0.5, 0.6, 1.5),
            nn.LocalResponseNorm(4, 0.5, 0.6, 2),
        ]  # fmt: skip
        module = Together(layers).eval()
        for parameter in module.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)
        for batch in (1, 2):
            x = torch.randn(batch, 6, 4, 5) * 0.1
            for dialect in ("bvlc", "opencv"):
                check(module, x, dialect=dialect)


class TestRearrangements:
    def test_parts(self):
        x = torch.randn(2, 6, 8, 9)
        functions = (
            lambda x: torch.cat(x.chunk(3, 1)[::-1], 1), lambda x: x[:, 1:4, 2:, :-1], lambda x: x[:, :, 1::3, ::2],
            lambda x: x.split([1, 2, 3], 1), lambda x: torch.stack(x.unbind(1), 2), lambda x: x[:, 2],
            lambda x: x.flip(3), lambda x: x.roll(2, 2), lambda x: x[:, [5, 0, 3]], lambda x: x.narrow(2, 3, 4),
            lambda x: (x[:, :2], x[:, 2:]), lambda x: (x[:, :3] + x[:, 3:], x[:, 1:2]), lambda x: x.repeat(1, 2, 1, 3),
            lambda x: x[:, :1].expand(2, 6, 8, 9), lambda x: x.repeat_interleave(2, 3), lambda x: x[1:],
        )  # fmt: skip
        check_all(functions, x)

    def test_shapes(self):
        x = torch.randn(2, 6, 4, 5)
        functions = [
            lambda x: x.flatten(1), lambda x: x.flatten(2), lambda x: x.view(2, 3, 2, 20), lambda x: x.reshape(-1, 5),
            lambda x: x.unsqueeze(1).squeeze(1) + 1, lambda x: x.unflatten(1, (2, 3)), lambda x: x.view(2, -1)[:, :7],
        ]  # fmt: skip
        check_all(functions, x)
        functions = [
            lambda x: x.permute(0, 2, 3, 1), lambda x: x.transpose(1, 2).flatten(2), lambda x: F.channel_shuffle(x, 3),
            lambda x: x.view(2, 2, 3, 4, 5).transpose(1, 2).reshape(2, 6, 4, 5), lambda x: x.permute(3, 2, 1, 0),
        ]  # fmt: skip
        check_all(functions, x, dialects=("ssd", "caffe-bridge"))

    def test_transposed_weights_instead_of_transposed_values(self):
        module = nn.Sequential(
            nn.Conv2d(3, 4, 1), Wrapped(lambda x: x.permute(0, 2, 3, 1).flatten(1)), nn.Linear(80, 3)
        )
        assert types(check(module, torch.randn(2, 3, 4, 5))) == ["Input", "Convolution", "InnerProduct"]

    def test_sizes(self):
        x = torch.randn(2, 3, 5, 6)
        functions = (
            lambda x: F.interpolate(x, scale_factor=3), lambda x: F.interpolate(x, size=(7, 4)),
            lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
            lambda x: F.interpolate(x, size=(3, 13), mode="bilinear"),
            lambda x: F.interpolate(x, size=(9, 11), mode="bilinear", align_corners=True),
            lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
            lambda x: F.interpolate(x, size=(8, 9), mode="nearest-exact"),
            lambda x: F.interpolate(x.repeat(1, 1, 3, 1)[:, :, :14], size=(9, 3), mode="nearest-exact"),
            lambda x: F.interpolate(x, scale_factor=(2, 3)),
            lambda x: F.interpolate(x[:, :, :3], scale_factor=(1.2, 1.7)),
            lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"),
            lambda x: F.interpolate(x, scale_factor=1.7, mode="nearest", recompute_scale_factor=True),
            lambda x: F.pad(x, (1, 2, 0, 3), mode="reflect"), lambda x: F.pad(x, (1, 2, 2, 0), mode="replicate"),
            lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"), lambda x: F.pad(x, (1, 0, 0, 2), value=0.5),
            lambda x: F.pad(x, (0, 0, 0, 0, 1, 2)), lambda x: F.pad(x, (-1, 2, 1, -1)),
        )  # fmt: skip
        check_all(functions, x, dialects=("bvlc", "opencv"))
        check(nn.PixelShuffle(2), torch.randn(1, 8, 3, 4))
        check(nn.PixelUnshuffle(2), torch.randn(1, 3, 6, 4))
        check(lambda x: F.interpolate(x, scale_factor=2, mode="linear"), torch.randn(2, 3, 7))


class TestProblems:
    def test_all_are_listed_with_their_places(self):
        class Odd(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.act = nn.Conv2d(3, 4, 3), nn.MaxPool3d(2)

            def forward(self, x):
                y = self.act(self.conv(x).unflatten(3, (2, 2)))
                return torch.erfinv(y) + torch.sin(y), torch.sort(y.flatten(1))[0]

        with pytest.raises(ConversionError) as caught:
            import_program(export(Odd(), torch.randn(1, 3, 6, 6)))
        text = str(caught.value)
        assert len(caught.value.problems) == 4
        assert "(max_pool3d in act), inputs [(1, 4, 4, 2, 2)]: pools 3 axes; Caffe's Pooling has two" in text
        assert all(f"({name})" in text for name in ("erfinv", "sin", "sort"))

    def test_what_is_for_training(self):
        x = torch.randn(2, 3, 6, 6)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
        with pytest.raises(ConversionError, match="eval mode"):
            import_program(torch.export.export(module.train(), (x,)))

    def test_attention_and_products_of_values(self):
        x = torch.randn(1, 4, 6, 6)
        with pytest.raises(ConversionError, match="both computed"):
            import_program(export(lambda x: x @ x, x))
        with pytest.raises(ConversionError, match="is attention"):
            import_program(export(lambda x: F.scaled_dot_product_attention(x, x, x), x))

    def test_wrong_arguments(self):
        with pytest.raises(CaffeError, match="no dialect is named 'intel'; known are bvlc,"):
            import_program(program("vgg")[0], dialect="intel")
        with pytest.raises(CaffeError, match="expected what torch.export.export returns, not VGG"):
            import_program(torch_models.VGG())

    def test_writing_into_values(self):
        def inplace(x):
            y = x * 2
            z = y + 1
            y.relu_()
            y.add_(3)
            return y - z

        check(inplace, torch.randn(1, 3, 4, 4))
        check(lambda x: (lambda y: F.relu_(y) + y)(x * 1.5), torch.randn(1, 3, 4, 4))
