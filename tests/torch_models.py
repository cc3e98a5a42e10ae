"""Small torch models with the structures of well-known ones, for tests that convert them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def conv_bn(inputs: int, outputs: int, kernel=3, stride=1, padding=0, groups=1, activation=nn.ReLU) -> nn.Sequential:
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, activation(inplace=True)) if activation else nn.Sequential(*layers)


class AlexNet(nn.Module):
    """With the local response normalisation of the original, and torchvision's adaptive pooling."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 11, 4, 2), nn.ReLU(inplace=True), nn.LocalResponseNorm(5, 1e-2, 0.75, 2.0),
            nn.MaxPool2d(3, 2), nn.Conv2d(8, 12, 5, padding=2, groups=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d((3, 3))
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(12 * 9, 16), nn.ReLU(inplace=True), nn.Linear(16, 7))

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class VGG(nn.Module):
    def __init__(self):
        super().__init__()
        layers, inputs = [], 3
        for outputs in (4, "M", 6, 6, "M", 8, "M"):
            if outputs == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(True)]
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(8 * 16, 10), nn.ReLU(True), nn.Dropout(), nn.Linear(10, 5))

    def forward(self, x):
        x = self.features(x)
        return F.softmax(self.classifier(x.view(x.size(0), -1)), dim=1)


class GoogLeNet(nn.Module):
    """Inception modules and poolings that round up."""

    def __init__(self):
        super().__init__()
        self.conv1 = conv_bn(3, 8, 7, 2, 3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.branch1 = conv_bn(8, 4, 1)
        self.branch2 = nn.Sequential(conv_bn(8, 4, 1), conv_bn(4, 6, 3, padding=1))
        self.branch3 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv_bn(8, 2, 1))
        self.maxpool2 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(torch.cat([self.branch1(x), self.branch2(x), self.branch3(x)], 1))
        return self.fc(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 2 * width, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = conv_bn(inputs, 2 * width, 1, stride, activation=None) if stride > 1 else None

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    """Its first pooling rounds down where Caffe rounds up."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Bottleneck(8, 4, 1), Bottleneck(8, 8, 2))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(16, 5)

    def forward(self, x):
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class SqueezeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.squeeze = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 4, 1)
        self.expand1x1, self.expand3x3 = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 3, padding=1)
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(12, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 3, 2, ceil_mode=True)
        x = F.relu(self.squeeze(x))
        x = torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)
        return torch.flatten(self.classifier(x), 1)


class MobileNetV1(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(
            conv_bn(3, 8, 3, 2, 1), conv_bn(8, 8, 3, 1, 1, groups=8), conv_bn(8, 12, 1), nn.AvgPool2d(7)
        )
        self.fc = nn.Linear(12 * 4, 5)

    def forward(self, x):
        return self.fc(self.model(x).reshape(x.shape[0], -1))


class MobileNetV2(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 8, 3, 2, 1, activation=nn.ReLU6)
        self.block = nn.Sequential(
            conv_bn(8, 24, 1, activation=nn.ReLU6),
            conv_bn(24, 24, 3, 1, 1, 24, nn.ReLU6),
            conv_bn(24, 8, 1, activation=None),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 5))

    def forward(self, x):
        x = self.stem(x)
        return self.classifier((x + self.block(x)).mean([2, 3]))


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, gate=nn.Hardsigmoid):
        super().__init__()
        self.avgpool, self.fc1, self.fc2 = nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)
        self.activation, self.gate = nn.ReLU(), gate()

    def forward(self, x):
        return self.gate(self.fc2(self.activation(self.fc1(self.avgpool(x))))) * x


class MobileNetV3(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 8, 3, 2, 1, activation=nn.Hardswish)
        self.block = nn.Sequential(
            conv_bn(8, 16, 1, activation=nn.Hardswish), conv_bn(16, 16, 5, 2, 2, 16, nn.Hardswish),
            SqueezeExcitation(16), conv_bn(16, 8, 1, activation=None),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(8, 12), nn.Hardswish(inplace=True), nn.Dropout(), nn.Linear(12, 5))

    def forward(self, x):
        return self.classifier(F.adaptive_avg_pool2d(self.block(self.stem(x)), 1).flatten(1))


class DenseNet(nn.Module):
    """Batch normalisation before the filters, on joined blobs that are read again."""

    def __init__(self):
        super().__init__()
        self.conv0 = nn.Conv2d(3, 6, 3, 1, 1)
        self.norm1, self.conv1 = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(10), nn.Conv2d(10, 4, 3, padding=1, bias=False)
        self.transition = nn.Sequential(nn.BatchNorm2d(14), nn.ReLU(), nn.Conv2d(14, 8, 1), nn.AvgPool2d(2, 2))
        self.classifier = nn.Linear(8, 5)

    def forward(self, x):
        x = self.conv0(x)
        y = self.conv1(F.relu(self.norm1(x)))
        z = self.conv2(F.relu(self.norm2(torch.cat([x, y], 1))))
        x = F.relu(self.transition(torch.cat([x, y, z], 1)), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class InceptionV3(nn.Module):
    """Input scaled as torchvision does it, asymmetric kernels, and average pooling with padding."""

    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 8, 3, 2)
        self.branch1x1 = conv_bn(8, 4, 1)
        self.branch7x7 = nn.Sequential(conv_bn(8, 4, (1, 7), padding=(0, 3)), conv_bn(4, 4, (7, 1), padding=(3, 0)))
        self.branch_pool = conv_bn(8, 4, 1)
        self.grid = conv_bn(12, 6, 3, 2)
        self.fc = nn.Linear(18, 5)

    def forward(self, x):
        red = torch.unsqueeze(x[:, 0], 1) * (0.229 / 0.5) + (0.485 - 0.5) / 0.5
        green = torch.unsqueeze(x[:, 1], 1) * (0.224 / 0.5) + (0.456 - 0.5) / 0.5
        blue = torch.unsqueeze(x[:, 2], 1) * (0.225 / 0.5) + (0.406 - 0.5) / 0.5
        x = self.stem(torch.cat((red, green, blue), 1))
        pooled = self.branch_pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        x = torch.cat([self.branch1x1(x), self.branch7x7(x), pooled], 1)
        x = torch.cat([self.grid(x), F.max_pool2d(x, kernel_size=3, stride=2)], 1)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class ShuffleNetV2(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.maxpool = conv_bn(3, 8, 3, 2, 1), nn.MaxPool2d(3, 2, 1)
        self.branch = nn.Sequential(conv_bn(4, 4, 1), conv_bn(4, 4, 3, 1, 1, 4, None), conv_bn(4, 4, 1))
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.maxpool(self.stem(x))
        first, second = x.chunk(2, dim=1)
        x = torch.cat((first, self.branch(second)), 1)
        batch, channels, height, width = x.size()
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(batch, -1, height, width)
        return self.fc(x.mean([2, 3]))


class EfficientNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 8, 3, 2, 1, activation=nn.SiLU)
        self.block = nn.Sequential(
            conv_bn(8, 8, 3, 1, 1, 8, nn.SiLU), SqueezeExcitation(8, nn.Sigmoid), conv_bn(8, 8, 1)
        )
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x + self.block(x), 1), 1))


class UNet(nn.Module):
    """Unpadded, so that features are cropped, and upsampled by transposed convolution."""

    def __init__(self):
        super().__init__()
        self.down, self.bottom = (
            nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU()),
            nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU()),
        )
        self.up, self.merge, self.score = nn.ConvTranspose2d(8, 6, 2, 2), nn.Conv2d(12, 6, 3), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        skip = self.down(x)
        y = self.up(self.bottom(F.max_pool2d(skip, 2)))
        top, left = (skip.shape[2] - y.shape[2]) // 2, (skip.shape[3] - y.shape[3]) // 2
        skip = skip[:, :, top : top + y.shape[2], left : left + y.shape[3]]
        return self.score(F.relu(self.merge(torch.cat([skip, y], 1))))


class BilinearUNet(nn.Module):
    """Padded, upsampled bilinearly both ways, sizes made to fit by padding."""

    def __init__(self):
        super().__init__()
        self.down, self.bottom = conv_bn(3, 6, 3, padding=1), conv_bn(6, 6, 3, padding=1)
        self.merge, self.score = conv_bn(12, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        skip = self.down(x)
        y = F.interpolate(self.bottom(F.max_pool2d(skip, 2)), scale_factor=2, mode="bilinear", align_corners=True)
        dy, dx = skip.size(2) - y.size(2), skip.size(3) - y.size(3)
        y = F.pad(y, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        y = self.score(self.merge(torch.cat([skip, y], dim=1)))
        return F.interpolate(y, size=(64, 48), mode="bilinear", align_corners=False)


class FCN8s(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.pool3 = nn.Conv2d(3, 6, 3, padding=20), nn.MaxPool2d(8, 8, ceil_mode=True)
        self.pool4, self.pool5 = nn.MaxPool2d(2, 2, ceil_mode=True), nn.MaxPool2d(2, 2, ceil_mode=True)
        self.score3, self.score4, self.score5 = (nn.Conv2d(6, 4, 1) for _ in range(3))
        self.up2, self.up4 = (nn.ConvTranspose2d(4, 4, 4, 2, bias=False) for _ in range(2))
        self.up8 = nn.ConvTranspose2d(4, 4, 16, 8, bias=False)

    def forward(self, x):
        third = self.pool3(F.relu(self.conv1(x)))
        fourth = self.pool4(third)
        y = self.up2(self.score5(self.pool5(fourth)))
        fourth = self.score4(fourth * 0.01)[:, :, : y.size(2), : y.size(3)]
        y = self.up4(y[:, :, : fourth.size(2), : fourth.size(3)] + fourth)
        third = self.score3(third * 0.0001)
        third = third[:, :, 1 : 1 + y.size(2), 1 : 1 + y.size(3)]
        y = self.up8(y[:, :, : third.size(2), : third.size(3)] + third)
        return y[:, :, 4 : 4 + x.size(2), 4 : 4 + x.size(3)].contiguous()


class DeepLabV3(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 8, 3, 2, 1)
        self.branches = nn.ModuleList(nn.Conv2d(8, 4, 3, padding=d, dilation=d) for d in (1, 2, 4))
        self.image, self.project = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_bn(8, 4, 1)), nn.Conv2d(16, 3, 1)

    def forward(self, x):
        y = self.stem(x)
        image = F.interpolate(self.image(y), size=y.shape[-2:], mode="bilinear", align_corners=False)
        y = self.project(torch.cat([*(F.relu(branch(y)) for branch in self.branches), image], 1))
        return F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False).argmax(1)


class SSD(nn.Module):
    """The heads of SSD on two feature maps, with the learned L2 normalisation of the first."""

    def __init__(self):
        super().__init__()
        self.conv4, self.conv5 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.weight = nn.Parameter(torch.full((8,), 20.0))
        self.loc = nn.ModuleList(nn.Conv2d(8, boxes * 4, 3, padding=1) for boxes in (2, 3))
        self.conf = nn.ModuleList(nn.Conv2d(8, boxes * 5, 3, padding=1) for boxes in (2, 3))

    def forward(self, x):
        first = F.relu(self.conv4(x))
        second = F.relu(self.conv5(first))
        norm = first.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10
        maps = [self.weight.unsqueeze(0).unsqueeze(2).unsqueeze(3).expand_as(first) * torch.div(first, norm), second]
        loc = [layer(y).permute(0, 2, 3, 1).contiguous() for layer, y in zip(self.loc, maps)]
        conf = [layer(y).permute(0, 2, 3, 1).contiguous() for layer, y in zip(self.conf, maps)]
        loc = torch.cat([y.view(y.size(0), -1) for y in loc], 1)
        conf = torch.cat([y.view(y.size(0), -1) for y in conf], 1)
        return loc.view(loc.size(0), -1, 4), F.softmax(conf.view(conf.size(0), -1, 5), dim=-1)


class FeaturePyramid(nn.Module):
    """Nearest upsampling, as in detectors' necks, and YOLO's pooling pyramid and slices."""

    def __init__(self):
        super().__init__()
        self.focus, self.down = (
            conv_bn(12, 8, 3, 1, 1, activation=nn.SiLU),
            conv_bn(8, 8, 3, 2, 1, activation=nn.LeakyReLU),
        )
        self.spp, self.lateral, self.out = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        parts = [x[..., i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
        first = self.focus(torch.cat(parts, 1))
        y = self.down(first)
        y = self.spp(torch.cat([y] + [F.max_pool2d(y, k, 1, k // 2) for k in (5, 9)], 1))
        up = F.interpolate(y, scale_factor=2.0, mode="nearest")
        fused = self.lateral(first) + up
        return torch.sigmoid(self.out(torch.cat([fused, up], 1))), y


class SuperResolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 5, padding=2), nn.Conv2d(8, 9, 3, padding=1)
        self.prelu, self.shuffle = nn.PReLU(8), nn.PixelShuffle(3)

    def forward(self, x):
        return self.shuffle(self.conv2(self.prelu(self.conv1(x)))).clamp(0, 1)


class ConvNeXt(nn.Module):
    """Layer normalisation over channels, GELU by tanh, and a learned scale."""

    def __init__(self):
        super().__init__()
        self.stem, self.dwconv = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.norm, self.pw1, self.act, self.pw2 = nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU("tanh"), nn.Linear(16, 8)
        self.gamma, self.head = nn.Parameter(torch.full((8,), 0.5)), nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        y = self.pw2(self.act(self.pw1(self.norm(self.dwconv(x).permute(0, 2, 3, 1)))))
        return self.head((x + (self.gamma * y).permute(0, 3, 1, 2)).mean([-2, -1]))


class Attention(nn.Module):
    """CBAM: attention over channels and over places, and group normalisation."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8)
        self.mlp, self.place = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8)), nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x):
        x = self.norm(self.conv(x))
        scale = torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))
        x = x * scale.unsqueeze(2).unsqueeze(3).expand_as(x)
        place = torch.cat([torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)], dim=1)
        return x * torch.sigmoid(self.place(place))


MODELS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "alexnet": (AlexNet, (2, 3, 91, 91)),
    "vgg": (VGG, (2, 3, 32, 32)),
    "googlenet": (GoogLeNet, (2, 3, 42, 46)),
    "resnet": (ResNet, (2, 3, 48, 40)),
    "squeezenet": (SqueezeNet, (1, 3, 34, 30)),
    "mobilenet_v1": (MobileNetV1, (2, 3, 28, 28)),
    "mobilenet_v2": (MobileNetV2, (2, 3, 24, 24)),
    "mobilenet_v3": (MobileNetV3, (2, 3, 24, 24)),
    "densenet": (DenseNet, (2, 3, 15, 17)),
    "inception_v3": (InceptionV3, (2, 3, 35, 35)),
    "shufflenet_v2": (ShuffleNetV2, (2, 3, 32, 32)),
    "efficientnet": (EfficientNet, (2, 3, 24, 24)),
    "unet": (UNet, (1, 1, 32, 36)),
    "bilinear_unet": (BilinearUNet, (1, 3, 21, 18)),
    "fcn8s": (FCN8s, (1, 3, 64, 72)),
    "deeplab_v3": (DeepLabV3, (1, 3, 33, 41)),
    "ssd": (SSD, (2, 3, 32, 32)),
    "feature_pyramid": (FeaturePyramid, (1, 3, 32, 24)),
    "super_resolution": (SuperResolution, (1, 1, 9, 11)),
    "convnext": (ConvNeXt, (2, 3, 16, 16)),
    "attention": (Attention, (2, 3, 9, 10)),
}


def make(name: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """A model in eval mode with statistics that are not those of a fresh one, and an input."""
    torch.manual_seed(seed)
    cls, shape = MODELS[name]
    model = cls().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model, torch.randn(shape)
