"""VGG-16 from torchvision's checkpoint computes what it did there; the mask branch starts from its hidden layers."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import caffe_bridge
from caffe_bridge import schema, weights
from caffe_bridge.cli import run
from caffe_bridge.convert.vgg16 import CONVOLUTIONS, FULLY_CONNECTED, read_vgg16
from caffe_bridge.errors import WeightsError
from caffe_bridge.tools import make_vgg16
from caffe_bridge.tools.models import mnc, trunks
from caffe_bridge.tools.models.model import Model

MNC_MEAN = (102.9801, 115.9465, 122.7717)
TORCHVISION_MEAN = (255 * 0.406, 255 * 0.456, 255 * 0.485)
WIDTHS = (4, 4, "M", 6, 6, "M", 8, 8, 8, "M", 8, 8, 8, "M", 8, 8, 8, "M")


class VGG16(nn.Module):
    """torchvision's vgg16, thin; the keys of its state dict are the same."""

    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for width in WIDTHS:
            if width == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(49 * channels, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(True), nn.Dropout(),
            nn.Linear(16, 10),
        )  # fmt: skip

    def forward(self, rgb):
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        normalised = (rgb / 255 - mean[:, None, None]) / deviation[:, None, None]
        return self.classifier(self.avgpool(self.features(normalised)).flatten(1))


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(2)
    net = VGG16().eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.3)
    return net


@pytest.fixture(scope="module")
def checkpoint(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("torchvision") / "vgg16-thin.pth"
    torch.save(theirs.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def image():
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (1, 3, 224, 224), generator=generator).float()


def caffe_net():
    """Caffe's VGG-16 with the widths above."""
    text = 'input: "data" input_shape { dim: [1, 3, 224, 224] }'
    bottom, widths = "data", iter(CONVOLUTIONS)
    for i, width in enumerate(WIDTHS):
        top = f"pool{i}" if width == "M" else next(widths)
        if width == "M":
            text += f'layer {{ name: "{top}" type: "Pooling" bottom: "{bottom}" top: "{top}"'
            text += " pooling_param { pool: MAX kernel_size: 2 stride: 2 } }"
        else:
            text += f'layer {{ name: "{top}" type: "Convolution" bottom: "{bottom}" top: "{top}"'
            text += f" convolution_param {{ num_output: {width} kernel_size: 3 pad: 1 }} }}"
            text += f'layer {{ name: "{top}_relu" type: "ReLU" bottom: "{top}" top: "{top}" }}'
        bottom = top
    for top, width in zip(FULLY_CONNECTED, (16, 16, 10)):
        text += f'layer {{ name: "{top}" type: "InnerProduct" bottom: "{bottom}" top: "{top}"'
        text += f" inner_product_param {{ num_output: {width} }} }}"
        if top != "fc8":
            text += f'layer {{ name: "{top}_relu" type: "ReLU" bottom: "{top}" top: "{top}" }}'
        bottom = top
    return text


def converted(checkpoint, tmp_path, mean, *flags):
    path = tmp_path / "VGG16.caffemodel"
    assert run(make_vgg16.main, [str(checkpoint), str(path), "--mean", *map(str, mean), *flags]) == 0
    return caffe_bridge.Net(caffe_net(), path)


def fed(image, mean):
    return image.flip(1) - torch.tensor(mean)[:, None, None]


@torch.no_grad()
def test_scores_are_torchvisions(theirs, checkpoint, image, tmp_path):
    net = converted(checkpoint, tmp_path, TORCHVISION_MEAN)
    scores = net(data=fed(image, TORCHVISION_MEAN))["fc8"]
    torch.testing.assert_close(scores, theirs(image), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_another_mean_changes_nothing_but_what_padding_stands_for(theirs, checkpoint, image, tmp_path):
    exact = converted(checkpoint, tmp_path, TORCHVISION_MEAN)
    net = converted(checkpoint, tmp_path, MNC_MEAN)
    blobs = ["conv1_1", "conv5_3", "fc8"]
    expected = exact(data=fed(image, TORCHVISION_MEAN), blobs=blobs)
    got = net(data=fed(image, MNC_MEAN), blobs=blobs)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(got["conv1_1"][inner], expected["conv1_1"][inner], rtol=1e-4, atol=1e-4)
    middle = (slice(None), slice(None), 7, 7)  # 16 pixels a cell; it sees 196 pixels, none of them padding's neighbour
    torch.testing.assert_close(got["conv5_3"][middle], expected["conv5_3"][middle], rtol=1e-4, atol=1e-4)
    # A tap that lies outside the image sees zero, in Caffe its own mean: off by less than a grey level in 255.
    weight = net.params["conv1_1"][0]
    means = torch.tensor(MNC_MEAN) - torch.tensor(TORCHVISION_MEAN)
    bound = (weight.abs() * means.abs()[:, None, None]).sum((1, 2, 3))[:, None, None]
    difference = (got["conv1_1"] - expected["conv1_1"]).abs()
    assert difference.max() > 1e-3 and (difference <= bound + 1e-4).all()
    assert (got["fc8"] - expected["fc8"]).norm() < 0.02 * expected["fc8"].norm()


def test_the_mask_branch_starts_from_the_hidden_layers(checkpoint, tmp_path, capsys):
    path = tmp_path / "VGG16.mask.caffemodel"
    assert run(make_vgg16.main, [str(checkpoint), str(path)]) == 0
    assert "36 blobs of 18 layers" in capsys.readouterr().out
    with weights.read(path) as made:
        for name in ("fc6", "fc7"):
            for copied, own in zip(made.layers[f"{name}_mask"], made.layers[name], strict=True):
                np.testing.assert_array_equal(copied, own)
        assert made.types["fc7_mask"] == "InnerProduct" and made.types["conv1_1"] == "Convolution"


@pytest.mark.parametrize("source", ["caffemodel", "caffemodel.h5", "safetensors", "pth"])
@pytest.mark.parametrize("destination", ["caffemodel", "caffemodel.h5"])
def test_plain_weights_of_any_format_are_taken_as_they_are(checkpoint, tmp_path, source, destination):
    plain, masked = tmp_path / f"plain.{source}", tmp_path / f"masked.{destination}"
    assert run(make_vgg16.main, [str(checkpoint), str(plain), "--plain"]) == 0
    assert run(make_vgg16.main, [str(plain), str(masked)]) == 0
    expected = read_vgg16(str(plain), MNC_MEAN).layers
    with weights.read(masked) as made:
        assert set(made.layers) == {*expected, "fc6_mask", "fc7_mask"}
        for name, arrays in made.layers.items():
            for values, own in zip(arrays, expected[name.removesuffix("_mask")], strict=True):
                np.testing.assert_array_equal(values, np.asarray(own))


def test_the_released_files_generation(tmp_path):
    """VGG-16 was released with V1 layers, whose blobs all have four axes."""
    net = schema.NetParameter(name="VGG_ILSVRC_16_layers")
    shapes = {name: (2, 3 if name == "conv1_1" else 2, 3, 3) for name in CONVOLUTIONS}
    shapes |= {"fc6": (1, 1, 5, 98), "fc7": (1, 1, 5, 5), "fc8": (1, 1, 7, 5)}
    for name, shape in shapes.items():
        outputs = shape[0] if name in CONVOLUTIONS else shape[2]
        layer = net.layers.add(name=name, type=4 if name in CONVOLUTIONS else 14, bottom=["x"], top=["x"])
        for size in (shape, (1, 1, 1, outputs)):
            blob = layer.blobs.add(num=size[0], channels=size[1], height=size[2], width=size[3])
            blob.data.extend(np.random.randn(int(np.prod(size))).tolist())
    (tmp_path / "old.caffemodel").write_bytes(net.SerializeToString())
    masked = tmp_path / "masked.caffemodel"
    assert run(make_vgg16.main, [str(tmp_path / "old.caffemodel"), str(masked)]) == 0
    with weights.read(masked) as made:
        found = {name: [array.shape for array in made.layers[name]] for name in ("conv1_1", "fc6_mask", "fc7_mask")}
        assert made.types["fc6_mask"] == "InnerProduct"
    assert found == {"conv1_1": [(2, 3, 3, 3), (2,)], "fc6_mask": [(5, 98), (5,)], "fc7_mask": [(5, 5), (5,)]}


def test_a_net_with_its_definition_keeps_it(checkpoint, tmp_path):
    net = converted(checkpoint, tmp_path, MNC_MEAN)
    net.save(tmp_path / "saved.caffemodel")
    masked = tmp_path / "masked.caffemodel"
    assert run(make_vgg16.main, [str(tmp_path / "saved.caffemodel"), str(masked)]) == 0
    with weights.read(masked) as made:
        layers = {layer.name: layer for layer in made.definition().layer}
    assert layers["fc6_mask"].inner_product_param.num_output == 16
    assert (layers["fc7_mask"].bottom, layers["fc7_mask"].top) == (["fc6_mask"], ["fc7_mask"])
    assert layers["pool2"].type == "Pooling"


def test_names_and_shapes_are_those_mnc_wants():
    """The published sizes, without the numbers."""
    net = mnc.net(Model("VGG16", trunks.vgg16)).to_proto()
    names = {layer.name for layer in net.layer if layer.type in ("Convolution", "InnerProduct")}
    assert {*CONVOLUTIONS, "fc6", "fc7", "fc6_mask", "fc7_mask"} <= names
    outputs = {layer.name: layer.inner_product_param.num_output for layer in net.layer}
    assert all(outputs[name] == outputs[f"{name}_mask"] == 4096 for name in ("fc6", "fc7"))
    sizes = {layer.name: layer.pooling_param for layer in net.layer if layer.type == "Pooling"}
    assert sizes["roi_interpolate_conv5_box"] == sizes["roi_interpolate_conv5_mask"]


def test_a_safetensors_checkpoint(theirs, checkpoint, tmp_path):
    path = tmp_path / "vgg16.safetensors"
    safetensors.torch.save_file(theirs.state_dict(), path)
    expected, got = (read_vgg16(str(each), MNC_MEAN).layers for each in (checkpoint, path))
    assert expected.keys() == got.keys()
    assert all(torch.equal(a, b) for name in got for a, b in zip(got[name], expected[name], strict=True))


def test_features_without_scores_will_do(theirs, tmp_path):
    state = {name: value for name, value in theirs.state_dict().items() if "classifier.6" not in name}
    torch.save(state, tmp_path / "vgg16.pth")
    assert "fc8" not in read_vgg16(str(tmp_path / "vgg16.pth"), MNC_MEAN).layers


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.1.running_mean": torch.zeros(4)}, "with batch normalisation"),
        ({"features.30.weight": torch.zeros(4)}, "this is another net"),
        ({"features.28.bias": None}, "no tensor 'features.28.bias'"),
        ({"features.2.weight": torch.zeros(4, 5, 3, 3)}, r"'conv1_2' would have blobs \(4, 5, 3, 3\)"),
        ({"classifier.0.weight": torch.zeros(16, 8)}, "'fc6' would have blobs"),
    ],
)
def test_other_nets_are_refused(theirs, tmp_path, change, message):
    state = {**theirs.state_dict(), **change}
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=message):
        read_vgg16(str(tmp_path / "other.pth"), MNC_MEAN)


def test_caffe_weights_of_another_net_are_refused(tmp_path):
    definition = schema.NetParameter()
    definition.layer.add(name="conv1_1", type="Convolution")
    arrays = [np.zeros((4, 3, 3, 3), np.float32), np.zeros(4, np.float32)]
    weights.save_net(tmp_path / "other.caffemodel", definition, {"conv1_1": arrays}, kind="caffemodel")
    with pytest.raises(WeightsError, match="for layer 'conv1_2', so this is not VGG-16"):
        read_vgg16(str(tmp_path / "other.caffemodel"), MNC_MEAN)


def test_a_second_mask_branch_is_refused(checkpoint, tmp_path, capsys):
    masked = str(tmp_path / "masked.h5")
    assert run(make_vgg16.main, [str(checkpoint), masked]) == 0
    assert run(make_vgg16.main, [masked, str(tmp_path / "twice.h5")]) == 2
    assert "has a layer 'fc6_mask' already" in capsys.readouterr().err
