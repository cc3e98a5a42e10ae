"""Nets written as PyTorch source compute what the nets compute, without anything of caffe-bridge."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from input_layers import numbered_inputs
from layer_cases import REFERENCE

import caffe_bridge
from caffe_bridge import LayerError, schema, text_format
from caffe_bridge.convert.onnx_export.verification import difference, random_inputs
from caffe_bridge.convert.torch_export import torch_module, written_types
from caffe_bridge.convert.torch_export.source import identifier, literal, wrapped
from caffe_bridge.tools import torch_table

TOLERANCE = 1e-5
ROOT = Path(caffe_bridge.__file__).parents[1] / "prototxt"


def make_net(body: str, *shapes: str) -> caffe_bridge.Net:
    """A net with inputs x0, x1, ... and its parameters drawn at random."""
    net = caffe_bridge.Net(numbered_inputs(*shapes) + body, phase="TEST")
    draw(net)
    return net


def draw(net: caffe_bridge.Net) -> None:
    """Parameters at random, such that activations neither vanish nor explode and statistics make sense."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
            else:
                parameter.uniform_(0.5, 1, generator=generator)


def assert_same(net: caffe_bridge.Net, inputs: dict | None = None) -> torch.nn.Module:
    written = torch_module(net)
    module = written.module()
    inputs = random_inputs(net) if inputs is None else inputs
    tensors = {name: torch.as_tensor(array) for name, array in inputs.items()}
    with torch.no_grad():
        wanted = net(**tensors)
        made = module(*(tensors[name] for name in net.inputs))
    made = made if isinstance(made, dict) else {written.outputs[0]: made}
    assert list(made) == written.outputs == net.outputs
    found = {blob: difference(made[blob].numpy(), wanted[blob].numpy()) for blob in net.outputs}
    assert max(found.values()) <= TOLERANCE, (found, written.source)
    return module


def recorded() -> list[str]:
    """The recorded cases of layers and forks whose types can all be written."""
    names = []
    for folder in ("layers", "forks"):
        for path in sorted((REFERENCE / folder).glob("*.npz")):
            param = schema.NetParameter()
            text_format.parse(str(np.load(path)["prototxt"]), param)
            if {layer.type for layer in param.layer} <= {*written_types(), "Input"}:
                names.append(f"{folder}/{path.stem}")
    return names


@pytest.mark.parametrize("name", recorded())
def test_recorded_case(name):
    case = np.load(REFERENCE / f"{name}.npz")
    net = caffe_bridge.Net(str(case["prototxt"]), phase="TEST")
    with torch.no_grad():
        for key in case.files:
            if key.startswith("param/"):
                layer, index = key[len("param/") :].rsplit("/", 1)
                net.params[layer][int(index)].copy_(torch.from_numpy(case[key]))
    assert_same(net, {blob: case[f"in/{blob}"].astype(np.float32) for blob in net.inputs})


def test_as_many_types_as_onnx_has():
    from caffe_bridge.convert.onnx_export import exported_types

    families = {name.split("/")[1].rsplit("_", 1)[0] for name in recorded()}
    assert len(families) > 50 and {"LSTM", "PoolingMask", "Upsample_SegNet", "BN_PSPNet", "Im2col"} <= families
    missing = {name for name in set(exported_types()) - set(written_types()) if "." not in name}
    assert not missing, missing


@pytest.mark.parametrize("seed", range(24))
def test_pooling_of_any_geometry_and_size(seed):
    draw = random.Random(seed)
    kernel, stride = draw.randint(1, 5), draw.randint(1, 6)
    pad = draw.randint(0, kernel - 1)
    net = make_net(
        f'layer {{ name: "p" type: "Pooling" bottom: "x0" top: "y" pooling_param {{ pool: {draw.choice(["MAX", "AVE"])}'
        f" kernel_size: {kernel} stride: {stride} pad: {pad} round_mode: {draw.choice(['CEIL', 'FLOOR'])} }} }}",
        "2,3,11,14",
    )
    for height, width in ((11, 14), (12, 13), (8, 9), (23, 10)):
        assert_same(net, {"x0": np.random.default_rng(0).standard_normal((1, 3, height, width), np.float32)})


WITHOUT_CASES = {
    "HardSwish": ('layer { name: "l" type: "HardSwish" bottom: "x0" top: "y" }', "2,3,4,5"),
    "Mish": ('layer { name: "l" type: "Mish" bottom: "x0" top: "y" }', "2,3,4,5"),
    "LSTMUnit": (
        'layer { name: "l" type: "LSTMUnit" bottom: "x0" bottom: "x1" bottom: "x2" top: "c" top: "h" }',
        "1,3,4",
        "1,3,16",
        "1,3",
    ),
    "stochastic": (
        'layer { name: "r" type: "ReLU" bottom: "x0" top: "x0" } layer { name: "l" type: "Pooling" bottom: "x0" '
        'top: "y" pooling_param { pool: STOCHASTIC kernel_size: 3 stride: 2 } }',
        "2,3,8,9",
    ),
    "mask of the whole image": (
        'layer { name: "l" type: "Pooling" bottom: "x0" top: "y" top: "m" pooling_param { global_pooling: true } }',
        "2,3,5,4",
    ),
    "overhang": (
        'layer { name: "l" type: "Convolution" bottom: "x0" top: "y" '
        "convolution_param { num_output: 2 kernel_size: 5 stride: 3 } }",
        "2,3,4,9",
    ),
    "channels first": (
        'layer { name: "l" type: "Convolution" bottom: "x0" top: "y" '
        "convolution_param { axis: 0 num_output: 2 kernel_size: 3 } }",
        "3,4,9",
    ),
    "no spatial axes": (
        'layer { name: "l" type: "Convolution" bottom: "x0" bottom: "x1" top: "y" top: "z" '
        "convolution_param { num_output: 4 group: 2 } }",
        "5,6",
        "5,6",
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
    "batch norm of a scalar factor": (
        'layer { name: "l" type: "BatchNorm" bottom: "x0" top: "y" } '
        'layer { name: "s" type: "Scale" bottom: "y" top: "y" scale_param { num_axes: 0 } }',
        "4,3,5,6",
    ),
    "slices in place": (
        'layer { name: "s" type: "Split" bottom: "x0" top: "a" top: "b" } '
        'layer { name: "r" type: "ReLU" bottom: "a" top: "a" } '
        'layer { name: "t" type: "TanH" bottom: "x0" top: "x0" } '
        'layer { name: "e" type: "Eltwise" bottom: "a" bottom: "b" bottom: "x0" top: "y" '
        "eltwise_param { coeff: 1 coeff: -0.1 coeff: 2 } }",
        "2,3",
    ),
}


@pytest.mark.parametrize("name", WITHOUT_CASES)
def test_layer_without_recorded_case(name):
    assert_same(make_net(*WITHOUT_CASES[name]))


def test_batch_norm_and_scale_are_one_module():
    body = (
        'layer { name: "c" type: "Convolution" bottom: "x0" top: "c" '
        "convolution_param { num_output: 4 kernel_size: 3 bias_term: false } }"
        'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" batch_norm_param { eps: 1e-3 } }'
        'layer { name: "sc" type: "Scale" bottom: "c" top: "d" scale_param { bias_term: true } }'
    )
    module = assert_same(make_net(body, "2,3,9,9"))
    assert [name for name, _ in module.named_children()] == ["c", "bn"]
    assert module.bn.affine and module.bn.eps == 1e-3 and module.bn.momentum == 0.001
    other = body + 'layer { name: "r" type: "ReLU" bottom: "c" top: "e" }'
    module = assert_same(make_net(other, "2,3,9,9"))
    assert [name for name, _ in module.named_children()] == ["c", "bn", "sc", "r"]


def test_shared_parameters_are_one_and_stored_once(tmp_path):
    body = "".join(
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
        f'param {{ name: "w" }} param {{ name: "b" }} inner_product_param {{ num_output: 5 transpose: {turned} }} }}'
        for name, bottom, turned in (("a", "x0", "false"), ("b", "a", "false"), ("c", "b", "true"))
    )
    net = make_net(body, "2,5")
    module = assert_same(net)
    assert module.a.weight is module.b.weight and module.a.bias is module.c.bias
    written = torch_module(net)
    assert set(written.tensors) == {"a.weight", "a.bias", "c.weight"}
    assert "self.b.weight = self.a.weight" in written.source


def test_the_file_stands_alone(tmp_path):
    """The written file, imported from its path, loads its weights by safetensors and needs nothing else."""
    net = caffe_bridge.Net(ROOT / "lenet" / "deploy.prototxt")
    draw(net)
    written = torch_module(net)
    imported = {
        alias.name.partition(".")[0] if isinstance(node, ast.Import) else (node.module or "").partition(".")[0]
        for node in ast.walk(ast.parse(written.source))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert imported <= {"__future__", "pathlib", "math", "torch", "safetensors"}
    import safetensors.torch

    safetensors.torch.save_file(written.tensors, tmp_path / "w.safetensors")
    names: dict = {"__name__": "lenet"}
    exec(written.source, names)
    module = names["load"](tmp_path / "w.safetensors")
    x = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(module(x), net(data=x)["prob"])
    assert not module.training


HOSTILE = [
    "class",
    "self",
    "1x1/conv",
    "__x",
    "a b\n",
    'import os; os.abort()"""',
    "forward",
    "torch",
    "é",
    "Scale",
    "",
]


def test_any_name_makes_sound_source():
    net = schema.NetParameter(name='x"""\nimport os\n')
    net.layer.add(name="in", type="Input", top=["data"]).input_param.shape.add(dim=[2, 3])
    bottom = "data"
    for name in HOSTILE:
        layer = net.layer.add(name=name, type="InnerProduct", bottom=[bottom], top=[name])
        layer.inner_product_param.num_output = 3
        net.layer.add(name=f"{name}/relu", type="PReLU", bottom=[name], top=[name])
        bottom = name
    made = caffe_bridge.Net(net)
    draw(made)
    module = assert_same(made)
    assert len(list(module.children())) == 2 * len(HOSTILE)
    assert "import os" not in [line.strip() for line in torch_module(made).source.splitlines()]


def test_every_part_of_the_source_is_short_enough():
    bottoms = "".join(f'bottom: "x0" bottom: "{"long" * 6}{i}" ' for i in range(6))
    body = (
        "".join(f'layer {{ name: "r{i}" type: "TanH" bottom: "x0" top: "{"long" * 6}{i}" }}' for i in range(6))
        + f'layer {{ name: "c" type: "Concat" {bottoms} top: "y" }}'
    )
    net = make_net(body, "2,3")
    assert_same(net)
    assert max(map(len, torch_module(net).source.splitlines())) <= 120
    assert wrapped(f"x = f({'a' * 70}, g({'b' * 50}, c))", 4) == [
        "    x = f(",
        f"        {'a' * 70},",
        f"        g({'b' * 50}, c),",
        "    )",
    ]


def test_numbers_and_names():
    assert literal(float(np.float32(0.1))) == "0.1" and literal(1.0) == "1.0" and literal((3,)) == "(3,)"
    assert literal(-1e-05) == "-1e-05" and literal([1, (2.0,)]) == "[1, (2.0,)]" and literal(None) == "None"
    assert literal(float("inf")) == 'float("inf")' and eval(literal('a"\n\\')) == 'a"\n\\'
    assert eval(literal(1 / 3)) == 1 / 3
    taken: set[str] = set()
    assert [identifier("a/b", taken), identifier("a b", taken)] == ["a_b", "a_b_2"]


@pytest.mark.parametrize(
    "name",
    [
        *("lenet/deploy", "cifar10_quick/deploy", "cifar10_full/deploy", "squeezenet/deploy"),
        *("mnc5_tiny/test", "cfm_tiny/test", "faster_rcnn_tiny/test"),
    ],
)
def test_nets_of_the_distribution(name):
    net = caffe_bridge.Net(ROOT / f"{name}.prototxt")
    draw(net)
    assert_same(net)


@pytest.mark.parametrize(
    ("type_name", "message"),
    [("HingeLoss", "is for training and testing"), ("Accuracy", "is for training and testing")],
)
def test_what_cannot_be_written(type_name, message):
    net = make_net(f'layer {{ name: "l" type: "{type_name}" bottom: "x0" bottom: "x1" top: "y" }}', "2,3", "2")
    with pytest.raises(LayerError, match=rf"layer 'l' \({type_name}\).*{message}"):
        torch_module(net)


def test_a_type_of_ones_own(monkeypatch):
    from caffe_bridge import registry
    from caffe_bridge.convert.torch_export import registry as writers
    from caffe_bridge.layers.base import Layer

    class Cube(Layer):
        def forward(self, bottom):
            return bottom**3

    monkeypatch.setitem(registry._layers, "Cube", Cube)
    net = make_net('layer { name: "l" type: "Cube" bottom: "x0" top: "y" }', "2,3")
    with pytest.raises(LayerError, match=r"layer 'l' \(Cube\).*@writes\('Cube'\)"):
        torch_module(net)
    monkeypatch.setitem(writers._writers, "Cube", lambda code, node, bottoms: f"{bottoms[0]} ** 3")
    assert_same(net)


def test_training_nets_are_refused():
    net = caffe_bridge.Net('layer { name: "x" type: "Input" top: "x" } ', phase="TRAIN")
    with pytest.raises(caffe_bridge.CaffeError, match="TEST"):
        torch_module(net)


def test_the_committed_table_is_in_step(capsys):
    assert torch_table.main(["--check"]) == 0, capsys.readouterr().err
