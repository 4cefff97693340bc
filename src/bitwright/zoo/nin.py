"""Network in Network for CIFAR-10 (Lin et al., ICLR 2014): convolutions followed by 1x1 convolutions.

The widths are those of the network published with the paper. There is no batch norm and no linear layer: the
last 1x1 convolution has one map for each class, and its mean is the logit.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from torch import nn

from bitwright.zoo.layers import Layers
from bitwright.zoo.weights import trained


def _block(in_channels: int, widths: tuple[int, int, int], kernel: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, width in enumerate(widths, start=1):
        size = kernel if index == 1 else 1
        layers[f"conv{index}"] = nn.Conv2d(in_channels, width, size, padding=size // 2)
        layers[f"relu{index}"] = nn.ReLU()
        in_channels = width
    return nn.Sequential(layers)


def nin(num_classes: int = 10, dropout: float = 0.5, weights: str | Path | None = None) -> Layers:
    """Network in Network for (N, 3, 32, 32) images, 0.97 M parameters.

    Args:
        num_classes: the number of outputs.
        dropout: probability of zeroing a value after each of the first two blocks, in training.
        weights: a file; with it the network is in evaluation mode.
    """
    network = Layers(
        block1=_block(3, (192, 160, 96), 5),
        pool1=nn.MaxPool2d(3, stride=2, padding=1),
        dropout1=nn.Dropout(dropout),
        block2=_block(96, (192, 192, 192), 5),
        pool2=nn.AvgPool2d(3, stride=2, padding=1),
        dropout2=nn.Dropout(dropout),
        block3=_block(192, (192, 192, num_classes), 3),
        pool3=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
    return trained(network, weights)
