"""The residual networks for 32x32 images of He et al., "Deep residual learning", CVPR 2016, section 4.2.

Three stages of 16, 32 and 64 channels with n basic blocks each, 6n + 2 layers in all: n = 3, 5, 7, 9 give
ResNet-20, 32, 44 and 56. The shortcuts have no parameters (the paper's option A).
"""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.zoo.layers import Layers
from bitwright.zoo.weights import trained, weights_from_environment


class PaddedShortcut(nn.Module):
    """Shortcut without parameters: every ``stride``-th pixel, zero channels added evenly on both sides."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (out_channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + 2 padding, H / stride, W / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut around both."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        changes_shape = stride != 1 or in_channels != out_channels
        self.shortcut = PaddedShortcut(in_channels, out_channels, stride) if changes_shape else nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y)) + self.shortcut(x)
        out: Tensor = self.relu2(y)
        return out


class CifarResNet(Layers):
    """A residual network for (N, 3, 32, 32) images.

    Args:
        blocks: the number of basic blocks in each of the three stages (n in the paper).
        num_classes: the number of outputs.
    """

    def __init__(self, blocks: int, num_classes: int = 10) -> None:
        super().__init__(
            conv1=nn.Conv2d(3, 16, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(16),
            relu=nn.ReLU(),
            layer1=_stage(16, 16, blocks, stride=1),
            layer2=_stage(16, 32, blocks, stride=2),
            layer3=_stage(32, 64, blocks, stride=2),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            linear=nn.Linear(64, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels) for _ in range(blocks - 1)))


def resnet20(num_classes: int = 10, weights: str | Path | None = None) -> CifarResNet:
    """ResNet-20, 0.27 M parameters; with ``weights`` (a file) loaded and in evaluation mode."""
    return trained(CifarResNet(3, num_classes), weights)


def resnet32(num_classes: int = 10, weights: str | Path | None = None) -> CifarResNet:
    """ResNet-32, 0.46 M parameters; with ``weights`` (a file) loaded and in evaluation mode."""
    return trained(CifarResNet(5, num_classes), weights)


def resnet44(num_classes: int = 10, weights: str | Path | None = None) -> CifarResNet:
    """ResNet-44, 0.66 M parameters; with ``weights`` (a file) loaded and in evaluation mode."""
    return trained(CifarResNet(7, num_classes), weights)


def resnet56(num_classes: int = 10, weights: str | Path | None = None) -> CifarResNet:
    """ResNet-56, 0.85 M parameters; with ``weights`` (a file) loaded and in evaluation mode."""
    return trained(CifarResNet(9, num_classes), weights)


def resnet20_cifar10() -> CifarResNet:
    """ResNet-20 with ``resnet20_cifar10.safetensors`` from the folder that ``BITWRIGHT_WEIGHTS`` names."""
    return resnet20(weights=weights_from_environment("resnet20_cifar10.safetensors"))


def resnet56_cifar10() -> CifarResNet:
    """ResNet-56 with ``resnet56_cifar10.safetensors`` from the folder that ``BITWRIGHT_WEIGHTS`` names."""
    return resnet56(weights=weights_from_environment("resnet56_cifar10.safetensors"))
