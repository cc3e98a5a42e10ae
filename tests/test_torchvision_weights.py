"""State dicts for torchvision's networks, found by structure; the networks are written out in torchvision_networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torchvision_networks import network

import caffe_bridge
from caffe_bridge import CaffeError, schema, text_format
from caffe_bridge.convert.caffe_import import import_program
from caffe_bridge.convert.onnx_files import build_net
from caffe_bridge.convert.torch_export.torchvision import ARCHITECTURES, torchvision_weights
from caffe_bridge.convert.torch_export.torchvision.architectures import sketch
from caffe_bridge.tools.convert import main

ROOT = Path(caffe_bridge.__file__).parents[1] / "prototxt"


def keys_and_shapes(step) -> dict[str, tuple[int, ...]]:
    """What a module of a sketch has in a state dict, of 1000 classes."""
    shape = tuple(1000 if size is None else size for size in step.shape)
    if step.kind == "norm":
        names = ("weight", "bias", "running_mean", "running_var")
        return {**{f"{step.key}.{name}": shape for name in names}, f"{step.key}.num_batches_tracked": ()}
    return {f"{step.key}.weight": shape, **({f"{step.key}.bias": shape[:1]} if step.options["bias"] else {})}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_keys_and_shapes(name):
    with torch.device("meta"):
        wanted = {key: tuple(value.shape) for key, value in network(name).state_dict().items()}
    found = {}
    for step in sketch(name).steps:
        found.update(keys_and_shapes(step))
    assert found == wanted and list(found) == list(wanted)


def read(name: str, size: int) -> caffe_bridge.Net:
    """A net of the zoo for one image of another size, with statistics and scales at random."""
    definition = schema.NetParameter()
    text_format.parse((ROOT / name / "deploy.prototxt").read_text(), definition)
    definition.layer[0].input_param.shape[0].dim[:] = [2, 3, size, size]
    net = caffe_bridge.Net(definition)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for blobs in net.params.values():
            for blob in blobs:
                if blob.ndim > 1:
                    blob.normal_(0, (2 / blob[0].numel()) ** 0.5, generator=generator)
                else:
                    blob.uniform_(0.5, 1, generator=generator)
    return net


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * max(1.0, wanted.abs().max().item()))


def test_squeezenet():
    net = read("squeezenet", 97)
    made = torchvision_weights(net)
    assert made.architecture == "squeezenet1_1" and made.classes == 1000
    assert made.differences == ["the net ends in a Softmax, the network does not"]
    model = network("squeezenet1_1").eval()
    model.load_state_dict(made.state)
    x = torch.randn(2, 3, 97, 97)
    with torch.no_grad():
        close(model(x).softmax(1), net(data=x)["prob"][:, :, 0, 0])


def test_resnet_with_the_strides_of_caffe():
    """conv1 of ResNet-50 has a bias, which goes into the batch norm's mean; strides and the first pooling differ."""
    definition = schema.NetParameter()
    text_format.parse((ROOT / "resnet50" / "deploy.prototxt").read_text(), definition)
    blocks = ("2a", "3a", "4a", "5a")
    net = read("resnet50", 224)
    made = torchvision_weights(net, "resnet50")
    strides = [line for line in made.differences if "stride" in line and "pooling" not in line]
    assert len(strides) == 6 and any("rounding up" in line for line in made.differences)
    assert all(any(f"res{block}" in line for line in strides) for block in blocks[1:])
    pool = torch.nn.MaxPool2d(3, 2, ceil_mode=True)
    model = network("resnet50", stride_first=True, pool=pool).eval()
    model.load_state_dict(made.state)
    x = torch.randn(1, 3, 224, 224)
    last = net.graph.nodes[-1].bottoms[0]
    with torch.no_grad():
        close(model(x), net(data=x, blobs=[last])[last])


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_from_torch_to_caffe_and_back(name):
    torch.manual_seed(0)
    model = network(name, classes=7).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 1)
    x = torch.randn(2, 3, 64, 64)
    program = torch.export.export(model, (x,))
    net = build_net(import_program(program))
    made = torchvision_weights(net, name)
    assert made.classes == 7 and made.architecture == name
    again = network(name, classes=7).eval()
    again.load_state_dict(made.state)
    with torch.no_grad():
        close(again(x), model(x))


class TestRefusals:
    @pytest.mark.parametrize(
        ("net", "architecture", "message"),
        [
            ("caffenet", "alexnet", "no counterpart of the 11x11 convolution 'features.0', 3 to 64"),
            ("googlenet", "googlenet", "no counterpart of batch norm 'conv1.bn'.*5x5 convolution 'inception_3a/5x5'"),
            ("mobilenet_v2", "mobilenet_v2", "the network has none of the 1x1 convolution 'conv2_1/expand'"),
            ("resnet50", "resnet101", "layer3.6.conv1'.* and 118 more"),
            ("lenet", "auto", "the structure of no network"),
            ("lenet", "vgg61", "did you mean vgg"),
        ],
    )
    def test_other_structures(self, net, architecture, message):
        definition = schema.NetParameter()
        text_format.parse((ROOT / net / "deploy.prototxt").read_text(), definition)
        definition.layer[0].input_param.shape[0].dim[0] = 1
        with pytest.raises(CaffeError, match=message):
            torchvision_weights(caffe_bridge.Net(definition), architecture)

    def test_several_outputs(self):
        net = caffe_bridge.Net(
            'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } } }'
            'layer { name: "s" type: "Slice" bottom: "x" top: "a" top: "b" top: "c" }'
        )
        with pytest.raises(CaffeError, match="one input and one output"):
            torchvision_weights(net)


def test_the_verb(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    net = read("squeezenet", 97)
    net.save("net.caffemodel")
    prototxt = str(ROOT / "squeezenet" / "deploy.prototxt")
    assert main([prototxt, "net.caffemodel", "a.pth", "--torchvision", "squeezenet1_1"]) == 0
    out = capsys.readouterr().out
    assert "squeezenet1_1(num_classes=1000)" in out and "the net ends in a Softmax" in out
    state = torch.load("a.pth", weights_only=True)
    network("squeezenet1_1").load_state_dict(state)
    assert main([prototxt, "net.caffemodel", "a.safetensors", "--torchvision", "auto", "--rgb"]) == 0
    swapped = safetensors.torch.load_file("a.safetensors")
    assert torch.equal(swapped["features.0.weight"], state["features.0.weight"].flip(1))
    with pytest.raises(SystemExit):
        main([prototxt, "net.caffemodel", "a.onnx", "--torchvision", "auto"])
