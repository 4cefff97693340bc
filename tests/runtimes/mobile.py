"""Small networks of the kinds that phones run, with batch norms as training leaves them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def convolution(before, after, kernel=3, stride=1, groups=1, activation=nn.Identity):
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after),
        activation(),
    )


class SqueezeExcite(nn.Module):
    """Weighs channels by what a small network says of their means."""

    def __init__(self, channels, activation, gate):
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)
        self.activation, self.gate = activation(), gate()

    def forward(self, x):
        return x * self.gate(self.excite(self.activation(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))


class Inverted(nn.Module):
    """Expansion, depthwise convolution, squeeze and excitation, projection; a shortcut where the shape stays."""

    def __init__(self, before, hidden, after, kernel, stride, activation, squeeze=None):
        super().__init__()
        self.expand = convolution(before, hidden, 1, activation=activation)
        self.depthwise = convolution(hidden, hidden, kernel, stride, hidden, activation)
        self.squeeze = squeeze(hidden) if squeeze else nn.Identity()
        self.project = convolution(hidden, after, 1)
        self.shortcut = stride == 1 and before == after

    def forward(self, x):
        y = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.shortcut else y


def mobilenet_v3():
    """ReLU in front, hard swish behind; gates are hard sigmoids, as in MobileNetV3-small."""

    def squeeze(channels):
        return SqueezeExcite(channels, nn.ReLU, nn.Hardsigmoid)

    return nn.Sequential(
        convolution(3, 16, stride=2, activation=nn.Hardswish),
        Inverted(16, 16, 16, 3, 1, nn.ReLU, squeeze),
        Inverted(16, 72, 24, 3, 2, nn.ReLU),
        Inverted(24, 88, 24, 3, 1, nn.ReLU),
        Inverted(24, 96, 40, 5, 2, nn.Hardswish, squeeze),
        Inverted(40, 160, 40, 5, 1, nn.Hardswish, squeeze),
        convolution(40, 96, 1, activation=nn.Hardswish),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 128),
        nn.Hardswish(),
        nn.Linear(128, 10),
    )


def efficientnet():
    """SiLU everywhere, gates are sigmoids, as in EfficientNet."""

    def squeeze(channels):
        return SqueezeExcite(channels, nn.SiLU, nn.Sigmoid)

    return nn.Sequential(
        convolution(3, 16, stride=2, activation=nn.SiLU),
        Inverted(16, 64, 24, 3, 2, nn.SiLU, squeeze),
        Inverted(24, 96, 24, 3, 1, nn.SiLU, squeeze),
        Inverted(24, 96, 40, 5, 2, nn.SiLU, squeeze),
        Inverted(40, 160, 40, 5, 1, nn.SiLU, squeeze),
        convolution(40, 96, 1, activation=nn.SiLU),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 10),
    )


class PatchAttention(nn.Module):
    """Local convolutions, then a transformer over the pixels at the same place of each patch, then fusion."""

    def __init__(self, channels, width, heads=2, patch=2):
        super().__init__()
        self.local = nn.Sequential(convolution(channels, channels, activation=nn.SiLU), nn.Conv2d(channels, width, 1))
        self.layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, F.silu, batch_first=True, norm_first=True)
        self.norm, self.patch = nn.LayerNorm(width), patch
        self.back = convolution(width, channels, 1, activation=nn.SiLU)
        self.fuse = convolution(2 * channels, channels, activation=nn.SiLU)

    def forward(self, x):
        y = self.local(x)
        _, d, h, w = y.shape
        p = self.patch
        y = y.reshape(-1, d, h // p, p, w // p, p).permute(0, 3, 5, 2, 4, 1).reshape(-1, h * w // p**2, d)
        y = self.norm(self.layer(y))
        y = y.reshape(-1, p, p, h // p, w // p, d).permute(0, 5, 3, 1, 4, 2).reshape(-1, d, h, w)
        return self.fuse(torch.cat([x, self.back(y)], 1))


def mobilevit():
    """Inverted residuals with SiLU, and a transformer on patches, as in MobileViT."""
    return nn.Sequential(
        convolution(3, 16, stride=2, activation=nn.SiLU),
        Inverted(16, 32, 24, 3, 2, nn.SiLU),
        Inverted(24, 48, 24, 3, 1, nn.SiLU),
        PatchAttention(24, 32),
        convolution(24, 64, 1, activation=nn.SiLU),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


NETWORKS = {"mobilenet_v3": mobilenet_v3, "efficientnet": efficientnet, "mobilevit": mobilevit}


def build(name, samples=64, seed=0):
    """A network in evaluation mode whose batch norms know their inputs, and inputs for it: smooth images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = NETWORKS[name]()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.5)
                module.momentum = None  # the mean of all batches
        small = torch.randn(samples + 128, 3, 8, 8)
        images = F.interpolate(small, size=32, mode="bicubic") + 0.3 * torch.randn(samples + 128, 3, 32, 32)
        with torch.no_grad():
            for batch in images[samples:].split(64):
                model(batch)
    return model.eval(), images[:samples]
