"""The classification networks of torchvision that Caffe's models of the same name resemble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from caffe_bridge.convert.torch_export.torchvision.sketch import Edge, Sketch, average, max_pool, relu


def _alexnet(net: Sketch) -> Edge:
    x = net.input
    convolutions = ((0, 3, 64, 11, 4, 2), (3, 64, 192, 5, 1, 2), (6, 192, 384, 3, 1, 1), (8, 384, 256, 3, 1, 1))
    for place, inputs, outputs, kernel, stride, pad in (*convolutions, (10, 256, 256, 3, 1, 1)):
        x = relu(net.conv(x, f"features.{place}", inputs, outputs, kernel, stride=stride, pad=pad))
        x = max_pool(x, 3, 2) if place in (0, 3, 10) else x
    return _classifier(net, x, 256 * 6 * 6, (1, 4, 6))


def _classifier(net: Sketch, x: Edge, inputs: int, places: tuple[int, int, int]) -> Edge:
    x = relu(net.linear(x, f"classifier.{places[0]}", inputs, 4096))
    x = relu(net.linear(x, f"classifier.{places[1]}", 4096, 4096))
    return net.linear(x, f"classifier.{places[2]}", 4096, None)


def _vgg(net: Sketch, repeats: Sequence[int], with_norm: bool) -> Edge:
    x, channels, place = net.input, 3, 0
    for stage, count in enumerate(repeats):
        outputs = min(64 << stage, 512)
        for _ in range(count):
            x = net.conv(x, f"features.{place}", channels, outputs, 3, pad=1)
            x = relu(net.norm(x, f"features.{place + 1}", outputs) if with_norm else x)
            channels, place = outputs, place + (3 if with_norm else 2)
        x, place = max_pool(x, 2, 2), place + 1
    return _classifier(net, x, 512 * 7 * 7, (0, 3, 6))


def _resnet(net: Sketch, repeats: Sequence[int], bottleneck: bool) -> Edge:
    x = net.norm(net.conv(net.input, "conv1", 3, 64, 7, stride=2, pad=3, bias=False), "bn1", 64)
    x, channels = max_pool(relu(x), 3, 2, 1), 64
    for stage, count in enumerate(repeats):
        width = 64 << stage
        outputs = width * (4 if bottleneck else 1)
        for block in range(count):
            stride = 2 if stage and not block else 1
            x = _residual(net, x, f"layer{stage + 1}.{block}", channels, width, outputs, stride, bottleneck)
            channels = outputs
    return net.linear(average(x), "fc", channels, None)


def _residual(
    net: Sketch, x: Edge, key: str, channels: int, width: int, outputs: int, stride: int, bottleneck: bool
) -> Edge:
    def conv_norm(y: Edge, number: int, inputs: int, channels: int, kernel: int, stride: int = 1) -> Edge:
        y = net.conv(y, f"{key}.conv{number}", inputs, channels, kernel, stride=stride, pad=kernel // 2, bias=False)
        return net.norm(y, f"{key}.bn{number}", channels)

    if bottleneck:
        y = relu(conv_norm(x, 1, channels, width, 1))
        y = relu(conv_norm(y, 2, width, width, 3, stride))
        y = conv_norm(y, 3, width, outputs, 1)
    else:
        y = relu(conv_norm(x, 1, channels, width, 3, stride))
        y = conv_norm(y, 2, width, width, 3)
    if stride != 1 or channels != outputs:
        x = net.conv(x, f"{key}.downsample.0", channels, outputs, 1, stride=stride, bias=False)
        x = net.norm(x, f"{key}.downsample.1", outputs)
    return relu(net.add(y, x))


_INCEPTION = {
    "3a": (192, 64, 96, 128, 16, 32, 32),
    "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64),
    "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64),
    "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128),
    "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}


def _googlenet(net: Sketch) -> Edge:
    def conv(x: Edge, key: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> Edge:
        x = net.conv(x, f"{key}.conv", inputs, outputs, kernel, stride=stride, pad=kernel // 2, bias=False)
        return relu(net.norm(x, f"{key}.bn", outputs, 1e-3))

    x = max_pool(conv(net.input, "conv1", 3, 64, 7, 2), 3, 2, ceil=True)
    x = max_pool(conv(conv(x, "conv2", 64, 64, 1), "conv3", 64, 192, 3), 3, 2, ceil=True)
    for name, (inputs, one, three, three_out, five, five_out, pooled) in _INCEPTION.items():
        key = f"inception{name}"
        x = net.concat(
            conv(x, f"{key}.branch1", inputs, one, 1),
            conv(conv(x, f"{key}.branch2.0", inputs, three, 1), f"{key}.branch2.1", three, three_out, 3),
            conv(conv(x, f"{key}.branch3.0", inputs, five, 1), f"{key}.branch3.1", five, five_out, 3),
            conv(max_pool(x, 3, 1, 1, ceil=True), f"{key}.branch4.1", inputs, pooled, 1),
        )
        if name in ("3b", "4e"):
            x = max_pool(x, 3 if name == "3b" else 2, 2, ceil=True)
    return net.linear(average(x), "fc", 1024, None)


def _squeezenet(net: Sketch, first: tuple[int, int], fires: Sequence[int], pools: Sequence[int]) -> Edge:
    """`fires` are the places of the Fire modules in `features`, `pools` those of the poolings."""
    channels, kernel = first
    x = max_pool(relu(net.conv(net.input, "features.0", 3, channels, kernel, stride=2)), 3, 2, ceil=True)
    for number, place in enumerate(fires):
        squeezed, expanded = 16 * (number // 2 + 1), 64 * (number // 2 + 1)
        x = max_pool(x, 3, 2, ceil=True) if place - 1 in pools else x
        x = relu(net.conv(x, f"features.{place}.squeeze", channels, squeezed, 1))
        x = net.concat(
            relu(net.conv(x, f"features.{place}.expand1x1", squeezed, expanded, 1)),
            relu(net.conv(x, f"features.{place}.expand3x3", squeezed, expanded, 3, pad=1)),
        )
        channels = 2 * expanded
    return average(relu(net.conv(x, "classifier.1", channels, None, 1)))


def _mobilenet_v2(net: Sketch) -> Edge:
    def conv(x: Edge, key: str, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> Edge:
        x = net.conv(x, f"{key}.0", inputs, outputs, kernel, stride=stride, pad=kernel // 2, groups=groups, bias=False)
        return net.norm(x, f"{key}.1", outputs).through("ReLU6")

    x, channels, place = conv(net.input, "features.0", 3, 32, 3, 2), 32, 1
    rows = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, outputs, count, stride in rows:
        for number in range(count):
            key, hidden, step = f"features.{place}.conv", channels * expansion, stride if number == 0 else 1
            y = conv(x, f"{key}.0", channels, hidden, 1) if expansion > 1 else x
            last = 2 if expansion > 1 else 1
            y = conv(y, f"{key}.{last - 1}", hidden, hidden, 3, step, hidden)
            y = net.norm(net.conv(y, f"{key}.{last}", hidden, outputs, 1, bias=False), f"{key}.{last + 1}", outputs)
            x = net.add(x, y) if step == 1 and channels == outputs else y
            channels, place = outputs, place + 1
    x = conv(x, "features.18", channels, 1280, 1)
    return net.linear(average(x), "classifier.1", 1280, None)


_VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_RESNET = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

ARCHITECTURES: dict[str, Callable[[Sketch], Edge]] = {
    "alexnet": _alexnet,
    **{f"vgg{depth}": partial(_vgg, repeats=counts, with_norm=False) for depth, counts in _VGG.items()},
    **{f"vgg{depth}_bn": partial(_vgg, repeats=counts, with_norm=True) for depth, counts in _VGG.items()},
    **{f"resnet{depth}": partial(_resnet, repeats=r, bottleneck=depth >= 50) for depth, r in _RESNET.items()},
    "googlenet": _googlenet,
    "squeezenet1_0": partial(_squeezenet, first=(96, 7), fires=(3, 4, 5, 7, 8, 9, 10, 12), pools=(6, 11)),
    "squeezenet1_1": partial(_squeezenet, first=(64, 3), fires=(3, 4, 6, 7, 9, 10, 11, 12), pools=(5, 8)),
    "mobilenet_v2": _mobilenet_v2,
}
"""Name of the function in torchvision.models to what sketches its network."""


def sketch(name: str) -> Sketch:
    """The network of a name in ARCHITECTURES."""
    net = Sketch()
    net.output = ARCHITECTURES[name](net)
    return net
