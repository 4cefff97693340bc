"""MobileNetV2 (Sandler et al., CVPR 2018, table 2) with fewer strides, for 32x32 images.

The layers and their parameters are the paper's. Of its five stride-2 places the first convolution and the first
stage of 24 channels keep the resolution here, so that a 32x32 image still has 4x4 features at the end.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from torch import Tensor, nn

from bitwright.errors import InvalidInput
from bitwright.zoo.weights import trained

STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, output channels, blocks and stride of each stage: table 2, the strides as said above."""


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, linear 1x1 projection; a shortcut where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = _convolution(in_channels, hidden, 1) if expansion != 1 else nn.Identity()
        self.depthwise = _convolution(hidden, hidden, 3, stride=stride, groups=hidden)
        self.project = _convolution(hidden, out_channels, 1, activation=False)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.has_shortcut else y


class MobileNetV2(nn.Module):
    """MobileNetV2 for (N, 3, 32, 32) images.

    Args:
        num_classes: the number of outputs.
        width_mult: factor on all channel counts, which are then rounded to multiples of 8.
        dropout: probability of zeroing a feature before the classifier, in training.
    """

    def __init__(self, num_classes: int = 10, width_mult: float = 1.0, dropout: float = 0.2) -> None:
        super().__init__()
        if not width_mult > 0:
            raise InvalidInput(f"width_mult must be above 0, got {width_mult}")
        channels = _multiple_of_8(32 * width_mult)
        last = _multiple_of_8(1280 * max(1.0, width_mult))
        self.stem = _convolution(3, channels, 3)
        blocks = []
        for expansion, width, depth, stride in STAGES:
            out_channels = _multiple_of_8(width * width_mult)
            for index in range(depth):
                blocks.append(InvertedResidual(channels, out_channels, stride if index == 0 else 1, expansion))
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.head = _convolution(channels, last, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(last, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, num_classes)."""
        x = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.classifier(self.dropout(self.flatten(self.pool(x))))
        return logits


def _convolution(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )
    layers["bn"] = nn.BatchNorm2d(out_channels)
    if activation:
        layers["relu"] = nn.ReLU6()
    return nn.Sequential(layers)


def _multiple_of_8(channels: float) -> int:
    """Round to the nearest multiple of 8, at least 8, never more than 10 % below ``channels``."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def mobilenet_v2(num_classes: int = 10, width_mult: float = 1.0, weights: str | Path | None = None) -> MobileNetV2:
    """MobileNetV2 for 32x32 images, 2.24 M parameters at width 1 with 10 classes.

    With ``weights`` (a file) they are loaded and the network is in evaluation mode.
    """
    return trained(MobileNetV2(num_classes, width_mult), weights)
