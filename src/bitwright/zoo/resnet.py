"""ResNet-18 and ResNet-50 for 224x224 images (He et al., CVPR 2016, table 1).

The bottleneck carries its stride in the 3x3 convolution, as most published weights do; the names of parameters
are torchvision's, so that its weight files load. Each activation is a module of its own: it gets its own site.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from bitwright.zoo.layers import Layers
from bitwright.zoo.weights import trained


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut around both."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, width, H / stride, W / stride)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y)) + (x if self.downsample is None else self.downsample(x))
        out: Tensor = self.relu2(y)
        return out


class Bottleneck(nn.Module):
    """A 1x1 convolution down to ``width`` channels, a 3x3 one, a 1x1 one up to 4 width, and a shortcut."""

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 4 width, H / stride, W / stride)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x))
        out: Tensor = self.relu3(y)
        return out


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


class ResNet(Layers):
    """A residual network for (N, 3, H, W) images, H and W at least 32, made for 224.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: the number of blocks in each of the four stages.
        num_classes: the number of outputs.
    """

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, int, int, int], num_classes: int
    ) -> None:
        e = block.expansion
        super().__init__(
            conv1=nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu=nn.ReLU(),
            maxpool=nn.MaxPool2d(3, stride=2, padding=1),
            layer1=_stage(block, 64, 64, depths[0], stride=1),
            layer2=_stage(block, 64 * e, 128, depths[1], stride=2),
            layer3=_stage(block, 128 * e, 256, depths[2], stride=2),
            layer4=_stage(block, 256 * e, 512, depths[3], stride=2),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(512 * e, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _stage(
    block: type[BasicBlock] | type[Bottleneck], in_channels: int, width: int, depth: int, stride: int
) -> nn.Sequential:
    first = block(in_channels, width, stride)
    return nn.Sequential(first, *(block(width * block.expansion, width) for _ in range(depth - 1)))


def resnet18(num_classes: int = 1000, weights: str | Path | None = None) -> ResNet:
    """ResNet-18, 11.69 M parameters; with ``weights`` (a file) loaded and in evaluation mode."""
    return trained(ResNet(BasicBlock, (2, 2, 2, 2), num_classes), weights)


def resnet50(num_classes: int = 1000, weights: str | Path | None = None) -> ResNet:
    """ResNet-50, 25.56 M parameters; with ``weights`` (a file) loaded and in evaluation mode."""
    return trained(ResNet(Bottleneck, (3, 4, 6, 3), num_classes), weights)
