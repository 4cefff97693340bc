"""The small residual network of the embedded example, for the 8x8 images of handwritten digits."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from bitwright.zoo.layers import Layers
from bitwright.zoo.resnet_cifar import BasicBlock
from bitwright.zoo.weights import trained


class DigitsNet(Layers):
    """A convolution, two residual blocks and a linear layer, for (N, 1, 8, 8) images."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(
            conv1=nn.Conv2d(1, 16, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(16),
            relu=nn.ReLU(),
            layer1=BasicBlock(16, 16),
            layer2=BasicBlock(16, 32, stride=2),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            linear=nn.Linear(32, num_classes),
        )


def digits_net(num_classes: int = 10, weights: str | Path | None = None) -> DigitsNet:
    """The network of the embedded example; with ``weights`` (a file) loaded and in evaluation mode."""
    return trained(DigitsNet(num_classes), weights)
